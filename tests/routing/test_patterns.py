import re

from app.routing.patterns import NAME_LIMIT, Patterns


def test_a_name_that_is_too_long_is_neither_matched_nor_remembered() -> None:
    patterns = Patterns([(re.compile(".*"), "A")])

    assert patterns.find("m" * NAME_LIMIT) == "A"
    assert patterns.find("m" * (NAME_LIMIT + 1)) is None
    assert list(patterns._known) == ["m" * NAME_LIMIT]
