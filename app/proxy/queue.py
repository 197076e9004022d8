"""Where requests wait while every server that may take them is full."""

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import monotonic

from app.routing.balancer import Balancer, Refusal
from app.routing.ledger import Lease

Place = Callable[[], Lease | Refusal]

Wish = tuple[str, tuple[str, ...]]
"""A model, and the servers that are out: whoever wishes the same finds the same."""

WAIT = (Refusal.FULL, Refusal.UNASKED)
"""What passes."""

REACH = 16
"""Among how many next clients one whose prompt is in a cache may go first."""

PATIENCE = 4
"""How many others may pass one by for that."""

PACE = 32
"""How many of the last places handed out tell how fast the queue moves."""


class TurnedAway(Exception):
    """There is no place; `ahead` were waiting before, and the wait may last `expected` seconds.

    It is None while too few were served to tell.
    """

    def __init__(self, ahead: int, expected: float | None) -> None:
        super().__init__(ahead, expected)
        self.ahead = ahead
        self.expected = expected


class QueueFull(TurnedAway):
    """As many wait as may wait."""


class QueueTimeout(TurnedAway):
    """No place became free in time."""


@dataclass(eq=False, slots=True)
class Waiter:
    """One request that waits, and how it tries for a place."""

    client: str
    model: str
    tried: tuple[str, ...]
    place: Place
    held: Callable[[], bool]
    since: float
    turn: "asyncio.Future[Lease | Refusal]" = field(repr=False)
    passed_by: set[str] = field(default_factory=set)
    """Clients that went first because their prompt was in a cache."""

    @property
    def wish(self) -> Wish:
        """What it waits for."""
        return self.model, self.tried


class WaitingRoom:
    """A bounded, fair queue: clients take turns, and each is served in the order it asked.

    A freed place is handed, in the moment it becomes free, to the client whose last turn is
    longest ago and that can use it, or to one of the next few whose prompt is in the cache
    there. So nobody waits beside a free place, whoever finds one has passed nobody by, and
    one who asks a hundred times at once holds nobody up: a client passes another once.
    `timeout` is in seconds.
    """

    def __init__(self, balancer: Balancer, *, capacity: int, timeout: float) -> None:
        self.capacity = capacity
        self._timeout = timeout
        # In the order of their turns; each client's requests in the order of arrival.
        self._lines: dict[str, dict[Waiter, None]] = {}
        self._handed_out: deque[float] = deque(maxlen=PACE)
        balancer.on_room = self.hand_out
        balancer.queued = self._queued

    async def wait(
        self,
        client: str,
        model: str,
        place: Place,
        tried: tuple[str, ...] = (),
        held: Callable[[], bool] = lambda: False,
        *,
        bounded: bool = True,
    ) -> Lease | Refusal:
        """Wait until `place`, which has found all full, gets a lease.

        `tried` names the servers that are out for this request; `held` tells whether the
        place that there is now has its prompt in a cache. Unless `bounded`, as many as like may
        wait, for it is about the first moments alone.

        Raises:
            QueueFull: there are as many waiting as may wait.
            QueueTimeout: no place became free in time.
        """
        if bounded and len(self) >= self.capacity:
            raise QueueFull(len(self), self._expected(len(self)))
        if not self._lines:
            self._handed_out.clear()  # how fast an earlier queue moved says nothing
        loop = asyncio.get_running_loop()
        waiter = Waiter(client, model, tried, place, held, monotonic(), loop.create_future())
        self._lines.setdefault(client, {})[waiter] = None
        try:
            async with asyncio.timeout(self._timeout):
                return await waiter.turn
        except TimeoutError:
            if waiter.turn.done() and not waiter.turn.cancelled():
                return waiter.turn.result()  # it came in the very last moment
            ahead = self._ahead(waiter)
            self._leave(waiter)
            raise QueueTimeout(ahead, self._expected(ahead)) from None
        except asyncio.CancelledError:
            self._leave(waiter)
            raise

    def hand_out(self) -> None:
        """Give free places to those who wait: each client gets one, then another."""
        full: set[Wish] = set()
        while (waiter := self._next(full)) is not None:
            answer = waiter.place()
            if answer in WAIT:
                full.add(waiter.wish)  # lest all who wish the same ask again
                continue
            waiter.turn.set_result(answer)
            self._handed_out.append(monotonic())
            line = self._lines.pop(waiter.client)
            del line[waiter]
            if line:
                self._lines[waiter.client] = line  # its next turn comes after everybody else's

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def by_model(self) -> Counter[str]:
        """Count the waiters for each model."""
        return Counter(waiter.model for line in self._lines.values() for waiter in line)

    def _queued(self, model: str) -> int:
        """Count the waiters for one model, without the one that is being placed."""
        if not self._lines:
            return 0
        return max(0, self.by_model()[model] - 1)

    def snapshot(self) -> dict[str, object]:
        """Tell how many wait, for which models, and for how many seconds the first has."""
        now = monotonic()
        waits = [now - waiter.since for line in self._lines.values() for waiter in line]
        expected = self._expected(len(waits))
        return {
            "waiting": len(waits),
            "max": self.capacity,
            "clients": len(self._lines),
            "by_model": dict(self.by_model()),
            "oldest_wait_seconds": round(max(waits, default=0.0), 3),
            "expected_wait_seconds": None if expected is None else round(expected, 1),
        }

    def _next(self, full: set[Wish]) -> Waiter | None:
        """Find whose turn it is; None where nobody could have a place.

        Among the next few clients that wish the same, one whose prompt is in the cache of the
        free place goes first, unless it has passed one of those before it already, or one of
        them was passed by often enough.
        """
        passed: list[Waiter] = []
        barred: set[str] = set()
        for waiter in itertools.islice(self._firsts(full), REACH):
            if passed and waiter.wish != passed[0].wish:
                continue  # what it could have may be none that the very next one could have
            if waiter.client not in barred and waiter.held():
                for one in passed:
                    one.passed_by.add(waiter.client)
                return waiter
            passed.append(waiter)
            barred |= waiter.passed_by
            if len(waiter.passed_by) >= PATIENCE:
                break
        return passed[0] if passed else None

    def _firsts(self, full: set[Wish]) -> Iterator[Waiter]:
        """Go through the clients in the order of their turns: the first request that can go."""
        for line in self._lines.values():
            for waiter in line:
                if not waiter.turn.done() and waiter.wish not in full:
                    yield waiter
                    break

    def _ahead(self, waiter: Waiter) -> int:
        """Count those who will be served before a waiter."""
        before = list(self._lines[waiter.client]).index(waiter)
        others = (line for client, line in self._lines.items() if client != waiter.client)
        return before + sum(min(len(line), before + 1) for line in others)

    def _expected(self, ahead: int) -> float | None:
        """Estimate, in seconds, how long it takes until so many and one more are served."""
        times = self._handed_out
        if len(times) < 2:
            return None
        return (ahead + 1) * (times[-1] - times[0]) / (len(times) - 1)

    def _leave(self, waiter: Waiter) -> None:
        """Take a waiter out; a place that it got in this very moment goes to the next."""
        line = self._lines.get(waiter.client, {})
        line.pop(waiter, None)
        if not line:
            self._lines.pop(waiter.client, None)
        if waiter.turn.done() and not waiter.turn.cancelled():
            answer = waiter.turn.result()
            if isinstance(answer, Lease):
                answer.release()
