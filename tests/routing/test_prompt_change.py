import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.routing.prompt import BLOCK, Prompt
from app.routing.prompt_change import PromptChange, find_change, find_dropped

KIND = "You are kind. " * 50
ASKED, ANSWERED = "user\nWhy? " + "x" * 300, "assistant\nSo. " + "y" * 900
TOOLS = [{"name": "look", "at": 1}, {"name": "run"}]


def chat(front: str, *said: str) -> Prompt:
    return Prompt([front, ASKED, *said], opening=1)


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ("It is 15:09:20.", "It is 15:10:01.", "clock"),
        ("Today is 2026-11-27.", "Today is 2026-11-28.", "clock"),
        ("Thursday, November 26", "Friday, November 27", "clock"),
        ("cch=a91f0;", "cch=0b77c;", "hash"),
        ("session 8f14e45f-ceea", "session c9f0f895-fb98", "hash"),
        ("in a good mood", "in a bad mood", "other"),
    ],
)
def test_a_text_that_changes_is_told_by_its_kind_and_place(
    before: str, after: str, kind: str
) -> None:
    change = find_change(chat(f"{KIND}{before}{KIND}"), chat(f"{KIND}{after}{KIND}", ANSWERED))

    assert (change.kind, change.message) == (kind, 0)
    assert len(KIND) <= change.character < len(KIND) + len(before)


def test_tools_in_another_order_are_told() -> None:
    prompts = [
        Prompt([json.dumps(tools), KIND, ASKED], opening=2) for tools in (TOOLS, TOOLS[::-1])
    ]

    assert find_change(*prompts) == PromptChange("tools", 0, prompts[0].front[0].index("look"))


def test_a_message_that_moved_is_told() -> None:
    reminder = "user\nRemember. " + "z" * 300

    change = find_change(
        chat(KIND, reminder, ANSWERED, "user\nOn"),
        chat(KIND, ANSWERED, "user\nOn", "assistant\nDone", reminder),
    )

    assert change == PromptChange("moved", 2, 0)


def test_a_message_that_changed_is_told_by_its_block() -> None:
    change = find_change(chat(KIND, ANSWERED), chat(KIND, ANSWERED[:700] + "now" + ANSWERED[700:]))

    assert change == PromptChange("other", 2, 2 * BLOCK)


def test_reasoning_that_was_left_out_is_told_where_the_cache_ended() -> None:
    messages = [KIND, ASKED, ANSWERED, "user\nOn", ANSWERED]
    later = Prompt([*messages, "user\nOn"], 1, [2])
    share = (len(KIND) + len(ASKED)) / later.size

    assert find_dropped(None, later, share) == PromptChange("reasoning", 2, 0)
    share = later.ends[3] / later.size
    assert find_dropped(Prompt(messages, 1, [4]), later, share) == PromptChange("reasoning", 4, 0)
    assert find_dropped(None, later, 0.0) is None


@given(st.lists(st.text(min_size=1), max_size=4), st.lists(st.text(min_size=1), max_size=4))
def test_any_two_prompts_can_be_compared(before: list[str], after: list[str]) -> None:
    for opening in (None, 0, 1):
        find_change(Prompt(before, opening), Prompt(after, opening))
        find_dropped(Prompt(before, opening, [0, 3]), Prompt(after, opening, [1]), 0.5)
