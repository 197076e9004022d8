"""Where requests wait while every server that may take them is full."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from app.routing.balancer import Balancer, Refusal
from app.routing.ledger import Lease

Place = Callable[[], Lease | Refusal]


class QueueFull(Exception):
    """As many wait as may wait."""


class QueueTimeout(Exception):
    """No place became free in time."""


@dataclass(eq=False, slots=True)
class Waiter:
    """One request that waits, and how it tries for a place."""

    model: str
    place: Place
    since: float
    turn: "asyncio.Future[Lease | Refusal]" = field(repr=False)


class WaitingRoom:
    """A bounded queue, first come, first served.

    A freed place is handed to the first waiter that can use it in the moment it becomes
    free. So nobody waits beside a free place, and whoever finds one has passed nobody by.
    `timeout` is in seconds.
    """

    def __init__(self, balancer: Balancer, *, capacity: int, timeout: float) -> None:
        self.capacity = capacity
        self._timeout = timeout
        self._waiters: dict[Waiter, None] = {}  # in the order of arrival
        balancer.on_room = self.hand_out

    async def wait(self, model: str, place: Place) -> Lease | Refusal:
        """Wait until `place`, which has found all full, gets a lease.

        Raises:
            QueueFull: there are as many waiting as may wait.
            QueueTimeout: no place became free in time.
        """
        if len(self._waiters) >= self.capacity:
            raise QueueFull
        loop = asyncio.get_running_loop()
        waiter = Waiter(model, place, loop.time(), loop.create_future())
        self._waiters[waiter] = None
        try:
            async with asyncio.timeout(self._timeout):
                return await waiter.turn
        except TimeoutError:
            self._leave(waiter)
            raise QueueTimeout from None
        except asyncio.CancelledError:
            self._leave(waiter)
            raise

    def hand_out(self) -> None:
        """Give free places to those who wait, in their order."""
        if not self._waiters:
            return
        for waiter in list(self._waiters):
            if waiter.turn.done():
                continue  # it is leaving
            answer = waiter.place()
            if answer is not Refusal.FULL:
                waiter.turn.set_result(answer)
                del self._waiters[waiter]

    def __len__(self) -> int:
        return len(self._waiters)

    def by_model(self) -> Counter[str]:
        """Count the waiters for each model."""
        return Counter(waiter.model for waiter in self._waiters)

    def snapshot(self) -> dict[str, object]:
        """Tell how many wait, for which models, and for how many seconds the first has."""
        now = asyncio.get_running_loop().time()
        waits = [now - waiter.since for waiter in self._waiters]
        return {
            "waiting": len(waits),
            "max": self.capacity,
            "by_model": dict(self.by_model()),
            "oldest_wait_seconds": round(waits[0], 3) if waits else 0.0,
        }

    def _leave(self, waiter: Waiter) -> None:
        """Take a waiter out; a place that it got in this very moment goes to the next."""
        self._waiters.pop(waiter, None)
        if waiter.turn.done() and not waiter.turn.cancelled():
            answer = waiter.turn.result()
            if isinstance(answer, Lease):
                answer.release()
