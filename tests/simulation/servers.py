"""A modelled llama.cpp server: slots, and a memory of prompts that have left them."""

from dataclasses import dataclass, field
from typing import Final

from tests.simulation.conversations import Conversation, Request

READ: Final = 64 / 1000
"""Seconds to read a block."""

WRITE: Final = 1 / 50
"""Seconds to write a token."""


@dataclass
class Slot:
    """One sequence, and whose prompt it holds."""

    owner: Conversation | None = None
    blocks: int = 0
    busy: bool = False
    used_at: float = 0.0
    free: list[tuple[float, float]] = field(default_factory=list)
    """From when to when nobody had it."""

    def unused(self, since: float, now: float) -> float:
        """Tell for how many seconds on end nobody has had it, of those since then."""
        spans = [*self.free, (self.used_at, now)] if not self.busy else self.free
        return max((end - max(since, begin) for begin, end in spans if end > since), default=0.0)


class ModelledServer:
    """Holds `ram` blocks of prompts outside of its slots, the oldest going first.

    As llama.cpp's server does, it keeps the last one however large that is.
    """

    def __init__(self, name: str, slots: int, ram: int) -> None:
        self.name = name
        self.slots = [Slot() for _ in range(slots)]
        self.peak = 0
        self._ram = ram
        self._kept: list[tuple[Conversation, int]] = []

    def begin(
        self, conversation: Conversation, request: Request, number: int | None, now: float
    ) -> tuple[int, int]:
        """Take a request; return the slot that it has, and how many blocks are cached."""
        if number is None or self.slots[number].busy:
            free = [n for n, slot in enumerate(self.slots) if not slot.busy]
            number = min(
                free, key=lambda n: (self.slots[n].owner is not conversation, self.slots[n].used_at)
            )
        slot = self.slots[number]
        held = self._held(slot, conversation, request)
        keeps = slot.owner is None or 2 * self._common(slot, conversation) < slot.blocks
        if slot.owner is not conversation and keeps:
            self._kept = [k for k in self._kept if k[0] not in (conversation, slot.owner)]
            if slot.owner is not None and self._ram:
                self._kept.append((slot.owner, slot.blocks))
            while len(self._kept) > 1 and sum(blocks for _, blocks in self._kept) > self._ram:
                self._kept.pop(0)
        slot.free.append((slot.used_at, now))
        slot.owner, slot.blocks, slot.busy = conversation, request.blocks, True
        self.peak = max(self.peak, sum(slot.busy for slot in self.slots))
        return number, held

    def end(self, number: int, now: float) -> None:
        """Free a slot."""
        self.slots[number].busy = False
        self.slots[number].used_at = now

    def _held(self, slot: Slot, conversation: Conversation, request: Request) -> int:
        if slot.owner is conversation:
            return min(request.shared, slot.blocks)
        common = self._common(slot, conversation)
        for other, blocks in self._kept:
            if other is conversation and (2 * common < slot.blocks or slot.owner is None):
                return min(request.shared, blocks)
        return min(common, request.blocks)

    def _common(self, slot: Slot, conversation: Conversation) -> int:
        """Count the blocks that a slot of another conversation has in common with one.

        Where that is half of what it holds, the server neither saves that nor looks for more.
        """
        if slot.owner is None or slot.owner.kind != conversation.kind:
            return 0
        return min(conversation.system, slot.owner.system)
