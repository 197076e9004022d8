"""Where prompts are held, over all servers: by their prefix hashes."""

from typing import Generic, TypeVar

from app.routing.prompt import Prompt

Holder = TypeVar("Holder")


class PrefixIndex(Generic[Holder]):
    """Finds who may hold what a prompt continues, however many servers and slots there are."""

    def __init__(self) -> None:
        self._holders: dict[int, dict[Holder, None]] = {}
        """For each prefix hash, who holds a prompt that it stands for."""

    def add(self, prefix: int, holder: Holder) -> None:
        """Note that somebody holds a prompt with this prefix hash."""
        self._holders.setdefault(prefix, {})[holder] = None

    def discard(self, prefix: int, holder: Holder) -> None:
        """Note that they hold none with this prefix hash any more."""
        holders = self._holders.get(prefix)
        if holders is not None:
            holders.pop(holder, None)
            if not holders:
                del self._holders[prefix]

    def find(self, prompt: Prompt) -> list[Holder]:
        """List who holds a prompt that this one may continue."""
        known = self._holders
        common = known.keys() & prompt.prefixes.keys()
        if len(common) == 1:
            return list(known[common.pop()])
        found: dict[Holder, None] = {}
        for prefix in common:
            found.update(known[prefix])
        return list(found)

    def __len__(self) -> int:
        return len(self._holders)
