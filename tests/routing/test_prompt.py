from hypothesis import given
from hypothesis import strategies as st

from app.routing.prompt import BLOCK, Prompt

SYSTEM = "system\n" + "You are kind. " * 100
texts = st.text(min_size=1, max_size=3 * BLOCK)


def chat(*messages: str) -> Prompt:
    """Begin a conversation with the system's message, which everybody shares."""
    return Prompt(messages, opening=1)


def test_the_next_turn_repeats_all_of_the_turn_before() -> None:
    first = chat(SYSTEM, "user\nHello")

    assert chat(SYSTEM, "user\nHello", "assistant\nHi", "user\nBye").shared(first) == first.size


def test_another_conversation_with_the_same_system_prompt_goes_on_from_nothing() -> None:
    first = chat(SYSTEM, "user\nHello")

    assert chat(SYSTEM, "user\nGood morning").shared(first) == 0


def test_a_last_message_that_grew_is_known_up_to_its_last_whole_block() -> None:
    diff = "user\n" + "x" * 1000

    assert chat(SYSTEM, diff + "y" * 300).shared(chat(SYSTEM, diff)) == len(SYSTEM) + 3 * BLOCK


def test_an_answer_said_anew_is_known_up_to_where_it_differs() -> None:
    story = "assistant\n" + "Once upon a time. " * 50
    told = chat(SYSTEM, "user\nTell me more", story, "user\nShorter")
    retold = chat(SYSTEM, "user\nTell me more", story, "user\nLonger")

    assert retold.shared(told) == told.size - len("user\nShorter")


def test_a_long_conversation_is_not_continued_by_one_that_merely_opens_alike() -> None:
    long = chat("user\nHi", "user\nHi", *["assistant\nWell, " + "so " * 300] * 5)

    assert chat("user\nHi", "user\nHi", "assistant\nHello", "user\nBye").shared(long) == 0


def test_an_empty_prompt_continues_nothing_and_is_continued_by_nothing() -> None:
    empty = Prompt([])

    assert empty.shared(chat(SYSTEM)) == chat(SYSTEM).shared(empty) == empty.size == 0


QUESTION, ANSWER = "user\nWhy? " + "x" * 300, "assistant\nSo. " + "y" * 900
CLOCK = "system\nIt is %s. " + "You are kind. " * 100


def test_a_conversation_behind_a_clock_is_the_same_one() -> None:
    earlier = chat(CLOCK % "15:09:20", QUESTION)
    later = chat(CLOCK % "15:10:01", QUESTION, ANSWER, "user\nGo on")

    assert later.changes(earlier)
    assert later.shared(earlier) == 0
    assert later.repeated(earlier) == 0


def test_a_conversation_whose_tools_come_in_another_order_is_the_same_one() -> None:
    earlier = Prompt(['[{"a":1},{"b":2}]', SYSTEM, QUESTION], opening=2)

    assert Prompt(['[{"b":2},{"a":1}]', SYSTEM, QUESTION, ANSWER], opening=2).changes(earlier)


def test_a_conversation_in_whose_middle_a_text_moved_is_the_same_one() -> None:
    reminder = "user\nRemember. " + "z" * 300
    earlier = chat(SYSTEM, QUESTION, reminder, ANSWER, "user\nOn")
    later = chat(SYSTEM, QUESTION, ANSWER, "user\nOn", "assistant\nDone", reminder)

    assert later.changes(earlier)


def test_a_title_for_a_conversation_is_another_one() -> None:
    earlier = chat(SYSTEM, QUESTION)

    assert not chat("system\nFind a title.", QUESTION).changes(earlier)


def test_who_says_the_same_first_and_then_something_else_is_another() -> None:
    long = chat(
        CLOCK % "15:09:20", "user\nHi", *[f"assistant\n{n}" + "so " * 300 for n in range(5)]
    )

    assert not chat(CLOCK % "15:10:01", "user\nHi", "assistant\nHello", "user\nBye").changes(long)


@given(st.lists(texts, min_size=1, max_size=5), st.lists(texts, max_size=3))
def test_whatever_is_extended_is_known_as_a_whole(before: list[str], more: list[str]) -> None:
    earlier = Prompt(before)

    known = Prompt(before + more).shared(earlier)

    assert known == earlier.size


@given(st.lists(texts, min_size=1, max_size=4), st.lists(texts, min_size=1, max_size=4))
def test_no_more_is_known_than_both_have_in_common(one: list[str], other: list[str]) -> None:
    a, b = Prompt(one, 0), Prompt(other, 0)
    text_a, text_b = "".join(one), "".join(other)
    common = next(
        (i for i, (x, y) in enumerate(zip(text_a, text_b, strict=False)) if x != y),
        min(len(text_a), len(text_b)),
    )

    assert a.shared(b) <= common
