"""Where prompts are held, over all servers: by their prefix hashes."""

from typing import Generic, TypeVar

from app.routing.prompt import Prompt

Cache = TypeVar("Cache")


class PrefixIndex(Generic[Cache]):
    """Finds the caches that may hold what a prompt continues, however many servers there are."""

    def __init__(self) -> None:
        self._holders: dict[int, dict[Cache, int]] = {}
        """For each prefix hash, who holds a prompt that it stands for, and how often."""

    def add(self, prefix: int, cache: Cache) -> None:
        """Note that a cache holds a prompt with this prefix hash."""
        holders = self._holders.setdefault(prefix, {})
        holders[cache] = holders.get(cache, 0) + 1

    def discard(self, prefix: int, cache: Cache) -> None:
        """Note that it holds one prompt fewer with this prefix hash."""
        holders = self._holders[prefix]
        if holders[cache] > 1:
            holders[cache] -= 1
            return
        del holders[cache]
        if not holders:
            del self._holders[prefix]

    def find(self, prompt: Prompt) -> list[Cache]:
        """List the caches that hold a prompt which this one may continue."""
        known = self._holders
        found: dict[Cache, None] = {}
        for prefix in prompt.prefixes:
            holders = known.get(prefix)
            if holders is not None:
                for cache in holders:
                    found[cache] = None
        return list(found)

    def __len__(self) -> int:
        return len(self._holders)
