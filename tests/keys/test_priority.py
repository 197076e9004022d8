import pytest

from app.keys.priority import PRIORITIES, Priority, lowered


@pytest.mark.parametrize("priority", PRIORITIES)
@pytest.mark.parametrize("asked", PRIORITIES)
def test_a_request_goes_by_the_lower_of_its_own_priority_and_its_keys(
    priority: Priority, asked: Priority
) -> None:
    rank = max(PRIORITIES.index(priority), PRIORITIES.index(asked))

    assert lowered(priority, asked.encode()) == PRIORITIES[rank]


def test_a_request_that_asks_for_no_priority_has_its_keys() -> None:
    assert lowered("batch", None) == "batch"


def test_what_is_no_priority_is_told() -> None:
    with pytest.raises(ValueError, match="interactive, normal, batch"):
        lowered("normal", b"urgent\xff")
