"""Which text of a conversation changed, so that a server reads its prompt again."""

import json
import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from app.routing.prompt import SPAN, Prompt

Kind = Literal["clock", "hash", "tools", "moved", "reasoning", "other"]
"""A time or date; a word of letters and digits; tools in another order; a message elsewhere;
reasoning that was left out."""

ADVICE: Final[Mapping[str, str]] = {
    "clock": "Have the time at the end of the prompt, or set BALANCER_STABLE_PROMPTS=learn.",
    "hash": "Switch it off at the client, or set BALANCER_STABLE_PROMPTS=learn.",
    "tools": "Have the client send its tools in one order, and keep it for a conversation.",
    "moved": "Have reminders stay where they were said first, or come last.",
    "reasoning": "Have the template keep reasoning, or let the model reason less.",
    "other": "Compare two of the client's prompts at this place.",
}
"""What helps, by what changed."""

NEAR: Final = 0.1
"""By how much a share in tokens may differ from that in characters."""

_CLOCK: Final = re.compile(
    r"\d{1,2}:\d\d|\d{4}-\d\d|\d{1,2}[./]\d{1,2}[./]\d\d|(?i:[ap]m\b|mon|tue|wed|thu|fri|sat|sun)"
)
_HASH: Final = re.compile(r"(?=\S*\d)\S{4,}")


@dataclass(frozen=True, slots=True)
class PromptChange:
    """Where a prompt began to differ from its conversation's last one, and in which way.

    `message` counts from 0, the tools, if there are any, and system messages included;
    `character` counts from its beginning, exactly in what stands before the conversation's own
    first message, else by whole blocks.
    """

    kind: Kind
    message: int
    character: int


def find_change(earlier: Prompt, later: Prompt) -> PromptChange:
    """Find where one prompt of a conversation began to differ from another."""
    for message, (before, after) in enumerate(zip(earlier.front, later.front, strict=False)):
        if before != after:
            return PromptChange(_kind(before, after), message, _common(before, after))
    both = min(len(earlier.front), len(later.front))
    if len(earlier.front) != len(later.front):
        return PromptChange("other", both, 0)
    known = later.repeated(earlier)
    message = bisect_right(later.ends, known)
    character = known - (later.ends[message - 1] if message else 0)
    return PromptChange("moved" if later.says_all_of(earlier) else "other", message, character)


def find_dropped(earlier: Prompt | None, later: Prompt, cached: float) -> PromptChange | None:
    """Find the message whose reasoning was left out, where a server's cache held less than known.

    `cached` is the share of the prompt that it held: up to such a message, by the client's or a
    template's doing, more or less.
    """
    for message in sorted({*later.reasoned, *(earlier.reasoned if earlier else ())}):
        if message < len(later.ends):
            start = later.ends[message - 1] if message else 0
            if abs(start / later.size - cached) <= NEAR:
                return PromptChange("reasoning", message, 0)
    return None


def _kind(before: str, after: str) -> Kind:
    if before[:1] == after[:1] == "[" and _elements(before) == _elements(after):
        return "tools"
    start, end = common_ends(before, after)
    spans = [_words(text, start, len(text) - end) for text in (before, after)]
    if all(len(span) <= SPAN for span in spans):
        if all(_CLOCK.search(span) for span in spans):
            return "clock"
        if all(_HASH.fullmatch(span) for span in spans):
            return "hash"
    return "other"


def _words(text: str, start: int, end: int) -> str:
    """Return a part of a text with the words whole at its ends."""
    while start and not text[start - 1].isspace():
        start -= 1
    while end < len(text) and not text[end].isspace():
        end += 1
    return text[start:end]


def common_ends(a: str, b: str) -> tuple[int, int]:
    """Count the characters that two texts have in common before and after where they differ."""
    start = _common(a, b)
    return start, _common(a[start:][::-1], b[start:][::-1])


def _common(a: str, b: str) -> int:
    """Count the characters at the beginning that two texts have in common."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _elements(text: str) -> list[str] | None:
    try:
        read = json.loads(text)
    except ValueError:
        return None
    return sorted(map(json.dumps, read)) if isinstance(read, list) else None
