"""A replica knows another's prompt by its summary as well as by itself."""

from collections.abc import Iterator

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.routing.prompt import Prompt
from app.routing.text_hash import SECRET, hash_text

texts = st.lists(st.text(min_size=1, max_size=900), min_size=1, max_size=8)
WORDS = "and so on, "


@pytest.fixture
def in_common() -> Iterator[None]:
    """Have a secret that replicas have in common."""
    SECRET.key = b"a secret of sixteen bytes or more"
    yield
    SECRET.key = None


def told(prompt: Prompt) -> Prompt:
    """Have it go to another replica."""
    return Prompt.summed_up(orjson.loads(orjson.dumps(prompt.summary())))


def talk(turns: int, size: int = 2000) -> list[str]:
    return [f"user\n{turn} {WORDS * (size // len(WORDS))}" for turn in range(turns)]


@given(texts, texts)
def test_what_is_known_of_a_prompt_is_known_by_its_summary(
    one: list[str], other: list[str]
) -> None:
    earlier, later = Prompt(one, 1), Prompt([*one[:3], *other], 1)

    assert later.shared(told(earlier)) == later.shared(earlier)
    assert later.repeated(told(earlier)) == later.repeated(earlier)
    assert later.changes(told(earlier)) == later.changes(earlier)


def test_a_long_conversation_goes_on_where_its_summary_ends() -> None:
    long = talk(300)
    earlier, later = Prompt(long, 1), Prompt([*long, "assistant\nYes.", "user\nAnd?"], 1)

    assert later.shared(told(earlier)) == earlier.size


def test_a_long_conversation_behind_a_clock_is_known_by_its_summary() -> None:
    long = talk(300)
    earlier, later = (Prompt([f"system\nIt is {now}.", *long], 1) for now in ("15:09", "15:10"))

    assert later.changes(told(earlier))


def test_two_summaries_of_a_conversation_have_in_common_most_of_what_they_repeat() -> None:
    long = talk(100)
    earlier, later = Prompt(long[:70], 1), Prompt(long, 1)

    assert told(later).repeated(told(earlier)) > 0.8 * earlier.size


def test_a_summary_has_four_kilobytes_at_the_most_and_no_text() -> None:
    written = orjson.dumps(Prompt(talk(2000), 1).summary())

    assert len(written) < 4096
    assert WORDS.encode() not in written


@pytest.mark.usefixtures("in_common")
def test_hashes_with_a_secret_in_common_are_the_same_in_every_process() -> None:
    assert hash_text("Hello") == HELLO
    assert Prompt(["Hello"]).whole == HELLO


@pytest.mark.usefixtures("in_common")
def test_half_a_surrogate_pair_can_be_hashed() -> None:
    assert hash_text("\ud83d") != hash_text("\ud83c")


def test_texts_are_hashed_by_the_secret_that_all_have(in_common: None) -> None:
    with_one = hash_text("Hello")
    SECRET.key = b"another secret of that length"

    assert hash_text("Hello") != with_one


HELLO = 233856629186227238
