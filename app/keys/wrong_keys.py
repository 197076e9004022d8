"""Wrong keys, by where they come from: who goes on guessing waits for the answers."""

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import Final

FREE: Final = 5
"""How many wrong keys are told at once: people mistype."""

RATE: Final = 1.0
"""How many a second are forgotten."""

LONGEST: Final = 10.0
"""Seconds that an answer is held back at most."""

TOLD_EVERY: Final = 60.0
"""Seconds between two lines in the log about one address."""

MOST: Final = 10_000
"""How many addresses are remembered, the latest."""


class WrongKeys:
    """Says how long the answer to a wrong key is held back.

    Right keys are never held back, so nobody can lock others out who share an address. An IPv6
    address counts as its network of 64 bits, since one machine has all of those. `told` is
    called with an address and the number of wrong keys that came since it was told last.
    """

    def __init__(self, told: Callable[[str, int], None]) -> None:
        self._told = told
        self._seen: OrderedDict[str, tuple[float, float, float, int]] = OrderedDict()
        """When one came last, how many are not forgotten, when it was told, how many since."""

    def hold_back(self, address: str, now: float) -> float:
        """Take note of a wrong key; return for how many seconds its answer is held back.

        `now` is on the monotonic clock, in seconds.
        """
        place = _network(address)
        last, level, told_at, since = self._seen.pop(place, (now, 0.0, now - TOLD_EVERY, 0))
        level = max(0.0, level - (now - last) * RATE) + 1
        since += 1
        if now - told_at >= TOLD_EVERY:
            self._told(address, since)
            told_at, since = now, 0
        self._seen[place] = now, min(level, FREE + LONGEST * RATE), told_at, since
        if len(self._seen) > MOST:
            self._seen.popitem(last=False)
        return max(0.0, min(LONGEST, (level - FREE) / RATE))


def _network(address: str) -> str:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return parsed.packed[:8].hex()
    return address
