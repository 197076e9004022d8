"""One request that waits, and what may end its wait."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from app.keys.priority import Priority
from app.routing.balancer import Refusal
from app.routing.ledger import Lease

Place = Callable[[], Lease | Refusal]

Need = tuple[str, tuple[str, ...], str, bool]
"""A model, the servers that are out, the one that it must be, and whether higher tiers will do:
requests with the same need find the same."""


class Rejected(Exception):
    """There is no place; `ahead` were waiting before, and the wait may last `expected` seconds.

    It is None while too few were served to tell.
    """

    def __init__(self, ahead: int, expected: float | None) -> None:
        super().__init__(ahead, expected)
        self.ahead = ahead
        self.expected = expected


class QueueFull(Rejected):
    """As many wait as may wait."""


class QueueTimeout(Rejected):
    """No place became free in time."""


Turn = Lease | Refusal | Rejected
"""What ends a wait."""


@dataclass(eq=False, slots=True)
class QueuedRequest:
    """One request that waits, how it tries for a place, and what is called in the end.

    `tried` names the servers that are out for it; `held` returns whether the place that there
    is now has its prompt in a cache. `on_turn` is called from the event loop, unless the
    request has left the queue before.
    """

    client: str
    """Who asks, of those at one address: anybody may write such a name."""
    model: str
    place: Place
    on_turn: Callable[[Turn], None]
    tried: tuple[str, ...] = ()
    held: Callable[[], bool] = lambda: False
    address: str = ""
    priority: Priority = "normal"
    since: float = field(default_factory=monotonic)
    had_turn: bool = False
    """Whether it has waited before, and another balancer was quicker when it had its turn."""
    overtaken_by: set[tuple[str, str]] = field(default_factory=set)
    """Who went first because of a prompt in a cache: another address, or a client of the same."""
    turn: Turn | None = field(default=None, repr=False)
    """What ended the wait, until `on_turn` is called."""
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)

    only: str = ""
    """The server that it must go to, if any."""
    takes_any_tier: bool = False
    """Whether it has waited long enough for a server of a lower tier."""

    def as_seen_by(self, other: "QueuedRequest") -> tuple[str, str]:
        """Tell who this is to another one that waits: clients of other addresses are one."""
        return self.address, self.client if self.address == other.address else ""

    @property
    def need(self) -> Need:
        """What it waits for."""
        return self.model, self.tried, self.only, self.takes_any_tier
