"""The queue of requests that wait while every server that may take them is full."""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Iterator
from time import monotonic
from typing import Final

from app.keys.priority import PRIORITIES, Priority
from app.proxy.queued_request import Need, QueuedRequest, QueueFull, QueueTimeout, Turn
from app.proxy.turns import Turns
from app.routing.balancer import Balancer, Refusal
from app.routing.ledger import Lease

WAIT: Final = (
    *(Refusal.FULL, Refusal.BEING_LEFT, Refusal.HELD),
    *(Refusal.WAKING, Refusal.UNASKED),
)
"""What passes."""

PASSED_LIMIT: Final = 8
"""How many of a higher priority go first before one of a lower has its turn all the same."""

MARGIN: Final = 0.005
"""Seconds by which one clock may be ahead of another."""

RATE_WINDOW: Final = 32
"""How many of the last places handed out show how fast the queue moves."""


class RequestQueue:
    """A bounded, fair queue: a priority goes before the next, and within one see `Turns`.

    A freed place is handed out in the moment it becomes free. So nobody waits beside a free
    place, and whoever finds one has overtaken nobody. Nobody starves: of every few places one
    goes to a lower priority. `timeout` is in seconds.
    """

    def __init__(self, balancer: Balancer, *, capacity: int, timeout: float) -> None:
        self.capacity = capacity
        self._timeout = timeout
        self._turns: dict[Priority, Turns] = {priority: Turns() for priority in PRIORITIES}
        self._handed_out: deque[float] = deque(maxlen=RATE_WINDOW)
        self._balancer = balancer
        self._again: asyncio.TimerHandle | None = None
        self._version = -1
        self._held: set[QueuedRequest] = set()
        """Those for whom it was better to wait, when places were handed out last."""
        balancer.on_room = self.hand_out
        balancer.queued = self._queued

    def change(self, *, capacity: int, timeout: float) -> None:
        """Keep to other bounds from now on; those who wait already do so as they would have."""
        self.capacity = capacity
        self._timeout = timeout

    def enter(self, request: QueuedRequest, *, bounded: bool = True) -> None:
        """Have a request wait that has found everything full.

        Unless `bounded`, as many as like may wait, for it is about the first moments alone. In
        a full queue it takes the place of the latest one of a lower priority.

        Raises:
            QueueFull: there are as many waiting as may wait.
        """
        if bounded and (waiting := len(self)) >= self.capacity:
            rejected = QueueFull(waiting, self._expected(waiting))
            latest = self._latest_below(request.priority)
            if latest is None:
                raise rejected
            self._remove(latest)
            self._end_wait(latest, rejected)
        if self._empty:
            self._handed_out.clear()  # how fast an earlier queue moved says nothing
        loop = asyncio.get_running_loop()
        left = self._timeout - (monotonic() - request.since)
        request.timer = loop.call_later(left, self._time_out, request)
        if wait := self._balancer.tier_wait:
            loop.call_later(wait + MARGIN, self._take_any_tier, request)
        self._turns[request.priority].add(request)
        self._look_again()

    def leave(self, request: QueuedRequest) -> None:
        """Take a request out; a place that it got in this very moment goes to the next."""
        turn, request.turn = request.turn, None
        if isinstance(turn, Lease):
            turn.release()
        self._remove(request)

    def hand_out(self) -> None:
        """Hand free places to requests that wait: each client gets one, then another."""
        if self._empty:
            return
        balancer, full = self._balancer, set[Need]()
        if self._version == balancer.version and balancer.now() < balancer.seconds.again_at:
            stays = set(self._held)  # nothing has changed for them
        else:
            balancer.seconds.again_at = math.inf
            self._held.clear()
            stays = set()
        while (turns := self._next(full, stays)) is not None:
            request = turns.next(full, stays)
            assert request is not None
            turn = request.place()
            if turn is Refusal.BEING_LEFT or turn is Refusal.HELD:
                stays.add(request)
                if turn is Refusal.HELD:
                    self._held.add(request)
                continue
            if turn in WAIT:
                full.add(request.need)  # lest all with the same need ask again
                continue
            self._handed_out.append(monotonic())
            self._remove(request)
            turns.move_back(request)
            self._pass_by(request.priority, full, stays)
            self._end_wait(request, turn)
        self._version = balancer.version
        self._look_again()

    def _look_again(self) -> None:
        """Look again when a place is held no longer."""
        at = self._balancer.seconds.again_at
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if at < math.inf:
            wait = max(0.0, at - self._balancer.now()) + MARGIN
            self._again = asyncio.get_running_loop().call_later(wait, self.hand_out)

    @property
    def _empty(self) -> bool:
        for turns in self._turns.values():  # noqa: SIM110 - a generator costs ten times as much
            if not turns.empty:
                return False
        return True

    def __len__(self) -> int:
        return sum(map(len, self._turns.values()))

    def _requests(self) -> Iterator[QueuedRequest]:
        for turns in self._turns.values():
            yield from turns

    def by_model(self) -> Counter[str]:
        """Count the requests that wait for each model."""
        return Counter(request.model for request in self._requests())

    def _queued(self, model: str) -> int:
        """Count the requests that wait for one model, without the one that is being placed."""
        if self._empty:
            return 0
        return max(0, self.by_model()[model] - 1)

    def snapshot(self) -> dict[str, object]:
        """Return how many wait, for which models, and for how many seconds the first has."""
        now = monotonic()
        waits = [now - request.since for request in self._requests()]
        expected = self._expected(len(waits))
        return {
            "waiting": len(waits),
            "max": self.capacity,
            "clients": sum(turns.clients for turns in self._turns.values()),
            "by_model": dict(self.by_model()),
            "by_priority": {priority: len(turns) for priority, turns in self._turns.items()},
            "oldest_wait_seconds": round(max(waits, default=0.0), 3),
            "expected_wait_seconds": None if expected is None else round(expected, 1),
        }

    def _next(self, full: set[Need], stays: set[QueuedRequest]) -> Turns | None:
        """Find the priority whose turn it is; None where nobody could have a place."""
        able = [turns for turns in self._turns.values() if turns.can_go(full, stays)]
        overdue = [turns for turns in able if turns.passed >= PASSED_LIMIT]
        first = overdue or able
        return first[0] if first else None

    def _pass_by(self, priority: Priority, full: set[Need], stays: set[QueuedRequest]) -> None:
        """Count a turn against the lower priorities that could have had it."""
        self._turns[priority].passed = 0
        for lower in PRIORITIES[PRIORITIES.index(priority) + 1 :]:
            turns = self._turns[lower]
            if turns.can_go(full, stays):
                turns.passed += 1

    def _latest_below(self, priority: Priority) -> QueuedRequest | None:
        """Find the latest request of the lowest priority that waits, if it is below another."""
        for lower in reversed(PRIORITIES[PRIORITIES.index(priority) + 1 :]):
            turns = self._turns[lower]
            if len(turns):
                return max(turns, key=lambda request: request.since)
        return None

    def _end_wait(self, request: QueuedRequest, turn: Turn) -> None:
        """Call back soon: now, somebody else is giving a lease back."""
        request.turn = turn
        asyncio.get_running_loop().call_soon(_take_turn, request)

    def _take_any_tier(self, request: QueuedRequest) -> None:
        request.takes_any_tier = True
        self.hand_out()

    def _time_out(self, request: QueuedRequest) -> None:
        turn: Turn = request.place()
        if turn is Refusal.WAKING:  # a machine takes longer to wake than others wait for a place
            loop = asyncio.get_running_loop()
            request.timer = loop.call_later(self._timeout, self._time_out, request)
            return
        if not isinstance(turn, Lease):
            ahead = self._ahead(request)
            turn = QueueTimeout(ahead, self._expected(ahead))
        self._remove(request)
        self._end_wait(request, turn)

    def _ahead(self, request: QueuedRequest) -> int:
        """Count the requests that will be served before one."""
        higher = PRIORITIES[: PRIORITIES.index(request.priority)]
        before = sum(len(self._turns[priority]) for priority in higher)
        return before + self._turns[request.priority].ahead(request)

    def _expected(self, ahead: int) -> float | None:
        """Estimate, in seconds, how long it takes until so many and one more are served."""
        times = self._handed_out
        if len(times) < 2:
            return None
        return (ahead + 1) * (times[-1] - times[0]) / (len(times) - 1)

    def _remove(self, request: QueuedRequest) -> None:
        self._held.discard(request)
        if request.timer is not None:
            request.timer.cancel()
            request.timer = None
        self._turns[request.priority].remove(request)


def _take_turn(request: QueuedRequest) -> None:
    turn, request.turn = request.turn, None
    if turn is not None:
        request.on_turn(turn)
