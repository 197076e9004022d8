"""Wrong keys by address: a client that goes on guessing waits for each response."""

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import Final

FREE: Final = 5
"""How many wrong keys get their response at once: people mistype."""

RATE: Final = 1.0
"""Wrong keys that are forgotten, per second."""

LONGEST: Final = 10.0
"""Longest delay of a response, in seconds."""

TOLD_EVERY: Final = 60.0
"""Seconds between two calls of `on_wrong` for one address."""

MOST: Final = 10_000
"""Most addresses that are remembered; the oldest go first."""


class WrongKeys:
    """Counts wrong keys, and delays the responses to them.

    Right keys are never delayed, so nobody can lock out others who share an address. An IPv6
    address counts as its network of 64 bits, since one machine has all of those. `on_wrong` is
    called with an address and the number of its wrong keys since the last call, once a minute.
    """

    def __init__(self, on_wrong: Callable[[str, int], None]) -> None:
        self._on_wrong = on_wrong
        self._seen: OrderedDict[str, tuple[float, float, float, int]] = OrderedDict()
        """Time of the last one, how many are not forgotten, time of the last call, number since."""

    def hold_back(self, address: str, now: float) -> float:
        """Count a wrong key, and return the delay of its response in seconds.

        `now` is on the monotonic clock, in seconds.
        """
        place = _network(address)
        last, level, told_at, since = self._seen.pop(place, (now, 0.0, now - TOLD_EVERY, 0))
        level = max(0.0, level - (now - last) * RATE) + 1
        since += 1
        if now - told_at >= TOLD_EVERY:
            self._on_wrong(address, since)
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
