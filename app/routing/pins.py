"""Which server and instance a client used last for a model: where its prompt cache is."""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Final

LATE: Final = 1.0
"""Seconds by which a pin may stand too far ahead in the order: to move one costs more than to
refresh it."""


class Pin:
    """Where a client's last request for a model went, `at` so many seconds."""

    __slots__ = ("address", "at", "instance", "placed_at", "server")

    def __init__(self, server: str, instance: str, address: str, at: float) -> None:
        self.server = server
        self.instance = instance
        self.address = address
        self.at = at
        self.placed_at = at
        """Since when it has stood where it does among the others."""


class Pins:
    """Pins by (address, client, model asked for). A pin lives `ttl` seconds from its last use.

    Anybody may write a name, so one that comes from two addresses is two clients. The table is
    bounded for the same reason: the pin unused for longest goes first.
    """

    def __init__(self, ttl: float, capacity: int = 10_000) -> None:
        self.ttl = ttl
        self._capacity = capacity
        # Ordered by the end of the last use, so what has expired stands in front; one that is
        # in use may stand among it.
        self._pins: dict[tuple[str, str, str], Pin] = {}
        self.evictions = Counter(ttl=0, capacity=0)
        """Pins that were forgotten, by reason."""

    def find(self, address: str, client: str, model: str, now: float) -> Pin | None:
        """Look a pin up; None once it has expired. Looking does not prolong it."""
        pin = self._pins.get((address, client, model))
        if pin is None or now - pin.at >= self.ttl:
            return None
        return pin

    def remembers(self, address: str, client: str, model: str) -> bool:
        """Whether there is a pin, even if it has expired."""
        return (address, client, model) in self._pins

    def put(self, client: str, model: str, pin: Pin) -> None:
        """Set or refresh a pin."""
        key = pin.address, client, model
        pins = self._pins
        past = pins.get(key)
        if past is not None:
            same = past.server == pin.server and past.instance == pin.instance
            if same and pin.at - past.placed_at < LATE:
                past.at = pin.at
                return
            del pins[key]
        pins[key] = pin
        if len(pins) > self._capacity:
            del pins[next(iter(pins))]
            self.evictions["capacity"] += 1

    def keep(self, servers: Collection[str]) -> None:
        """Forget the pins to all servers but these."""
        self._pins = {key: pin for key, pin in self._pins.items() if pin.server in servers}

    def items(self, now: float) -> Iterator[tuple[str, str, Pin]]:
        """Go through the live pins as (client, model, pin), the one unused for longest first."""
        self._expire(now)
        for (_, client, model), pin in self._pins.items():
            if now - pin.at < self.ttl:
                yield client, model, pin

    def _expire(self, now: float) -> None:
        while self._pins:
            key, oldest = next(iter(self._pins.items()))
            if now - oldest.at < self.ttl:
                return
            del self._pins[key]
            self.evictions["ttl"] += 1
