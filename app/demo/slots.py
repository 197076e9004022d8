"""The slots of a modelled model: which one a prompt gets, and what it still knows of it."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

SIMILAR = 0.1
"""The part of a prompt that a slot must know to be chosen for it: llama-server's default of
`--slot-prompt-similarity`."""


WORTH: Final = 0.25
"""The part of a prompt in RAM that must be repeated for it to be loaded, as llama-server has it."""


@dataclass(slots=True)
class Slot:
    """One parallel sequence, and the tokens in its cache."""

    number: int
    tokens: list[str] = field(default_factory=list)
    busy: bool = False
    used_at: float = -math.inf

    def knows(self, prompt: Sequence[str]) -> int:
        """Count the tokens at the prompt's beginning that the cache holds."""
        return _common(self.tokens, prompt)


def _common(tokens: Sequence[str], prompt: Sequence[str]) -> int:
    for count, (known, asked) in enumerate(zip(tokens, prompt, strict=False)):
        if known != asked:
            return count
    return min(len(tokens), len(prompt))


class Slots:
    """A model's slots, and the last prompts that had to leave them, of `ram` tokens in all.

    The very last is kept however long it is, if any are.
    Who takes a slot has made sure that it is free.
    """

    def __init__(self, count: int, ram: int = 0) -> None:
        self._slots = [Slot(number) for number in range(count)]
        self._ram: deque[list[str]] = deque()
        self._most = ram

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    def free(self, wanted: int | None = None) -> bool:
        """Whether a slot, or the one that is wanted, could be taken now."""
        if wanted is None:
            return not all(slot.busy for slot in self._slots)
        return not self._slots[wanted].busy

    def take(self, prompt: Sequence[str], wanted: int | None = None) -> tuple[Slot, int]:
        """Choose a free slot for a prompt; also tell how many of its tokens need no work.

        Unless one is wanted, the slot that knows the most of the prompt is taken, or the one
        unused for longest where none knows enough. The last token is always worked on: the
        first token of the answer comes from it.
        """
        if wanted is None:
            free = [slot for slot in self._slots if not slot.busy]
            slot = max(free, key=lambda slot: slot.knows(prompt))
            if slot.knows(prompt) <= SIMILAR * len(prompt):
                slot = min(free, key=lambda slot: slot.used_at)
        else:
            slot = self._slots[wanted]
        self._exchange(slot, prompt)
        cached = max(0, min(slot.knows(prompt), len(prompt) - 1))
        del slot.tokens[cached:]
        slot.busy = True
        return slot, cached

    def _exchange(self, slot: Slot, prompt: Sequence[str]) -> None:
        """Save what a slot holds of another prompt, and load what the RAM holds of this one.

        llama.cpp's server does neither where it keeps the better part of a slot, named or not:
        seen with a shared system prompt, whose conversations are lost while they are short.
        """
        kept = slot.knows(prompt)
        if slot.tokens and 2 * kept >= len(slot.tokens):
            return
        worth = [held for held in self._ram if _common(held, prompt) >= WORTH * len(held)]
        saved = max(worth, key=lambda tokens: _common(tokens, prompt), default=[])
        left = slot.tokens
        if _common(saved, prompt) > kept:
            self._ram.remove(saved)
            slot.tokens = saved
        if left and self._most:
            self._ram.append(left.copy())
        while len(self._ram) > 1 and sum(map(len, self._ram)) > self._most:
            self._ram.popleft()

    def give_back(self, slot: Slot, now: float) -> None:
        """Free a slot; its cache stays."""
        slot.busy = False
        slot.used_at = now


class Load:
    """How many slots were busy at once during the last seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._levels: deque[tuple[float, int]] = deque([(-math.inf, 0)])

    def change(self, by: int, now: float) -> None:
        """Note that so many slots more, or fewer, are busy."""
        self._levels.append((now, self._levels[-1][1] + by))
        self._forget(now)

    def peak(self, now: float) -> int:
        """Give the highest number."""
        self._forget(now)
        return max(level for _, level in self._levels)

    def _forget(self, now: float) -> None:
        # A level holds until the next one begins.
        while len(self._levels) > 1 and self._levels[1][0] <= now - self._seconds:
            self._levels.popleft()
