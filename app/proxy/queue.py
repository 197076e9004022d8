"""The queue of requests that wait while every server that may take them is full."""

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from app.routing.balancer import Balancer, Refusal
from app.routing.ledger import Lease

Place = Callable[[], Lease | Refusal]

Need = tuple[str, tuple[str, ...]]
"""A model, and the servers that are out: requests with the same need find the same."""

WAIT: Final = (Refusal.FULL, Refusal.BEING_LEFT, Refusal.UNASKED)
"""What passes."""

LOOKAHEAD: Final = 16
"""Among how many next clients one whose prompt is in a cache may go first."""

OVERTAKING_LIMIT: Final = 4
"""How many others may overtake a request for that."""

RATE_WINDOW: Final = 32
"""How many of the last places handed out show how fast the queue moves."""


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


Turn = Lease | Refusal | QueueTimeout
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
    since: float = field(default_factory=monotonic)
    overtaken_by: set[tuple[str, str]] = field(default_factory=set)
    """Who went first because of a prompt in a cache: another address, or a client of the same."""
    turn: Turn | None = field(default=None, repr=False)
    """What ended the wait, until `on_turn` is called."""
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)

    def as_seen_by(self, other: "QueuedRequest") -> tuple[str, str]:
        """Tell who this is to another one that waits: clients of other addresses are one."""
        return self.address, self.client if self.address == other.address else ""

    @property
    def need(self) -> Need:
        """What it waits for."""
        return self.model, self.tried


class RequestQueue:
    """A bounded, fair queue: addresses take turns, then the clients of one address.

    A freed place is handed, in the moment it becomes free, to the address whose last turn is
    longest ago and that can use it, or to one of the next few whose prompt is in the cache
    there. So nobody waits beside a free place, whoever finds one has overtaken nobody, and one
    who asks a hundred times at once, by whatever names, holds nobody up: an address overtakes
    another once, and so do clients of the same address, each served in the order it asked.
    `timeout` is in seconds.
    """

    def __init__(self, balancer: Balancer, *, capacity: int, timeout: float) -> None:
        self.capacity = capacity
        self._timeout = timeout
        # By address and client, in the order of their turns; requests in the order of arrival.
        self._lines: dict[str, dict[str, dict[QueuedRequest, None]]] = {}
        self._handed_out: deque[float] = deque(maxlen=RATE_WINDOW)
        balancer.on_room = self.hand_out
        balancer.queued = self._queued

    def enter(self, request: QueuedRequest, *, bounded: bool = True) -> None:
        """Have a request wait that has found everything full.

        Unless `bounded`, as many as like may wait, for it is about the first moments alone.

        Raises:
            QueueFull: there are as many waiting as may wait.
        """
        if bounded and len(self) >= self.capacity:
            raise QueueFull(len(self), self._expected(len(self)))
        if not self._lines:
            self._handed_out.clear()  # how fast an earlier queue moved says nothing
        loop = asyncio.get_running_loop()
        request.timer = loop.call_later(self._timeout, self._time_out, request)
        lines = self._lines.setdefault(request.address, {})
        lines.setdefault(request.client, {})[request] = None

    def leave(self, request: QueuedRequest) -> None:
        """Take a request out; a place that it got in this very moment goes to the next."""
        turn, request.turn = request.turn, None
        if isinstance(turn, Lease):
            turn.release()
        self._remove(request)

    def hand_out(self) -> None:
        """Hand free places to requests that wait: each client gets one, then another."""
        full: set[Need] = set()
        stays: set[QueuedRequest] = set()
        while (request := self._next(full, stays)) is not None:
            turn = request.place()
            if turn is Refusal.BEING_LEFT:
                stays.add(request)
                continue
            if turn in WAIT:
                full.add(request.need)  # lest all with the same need ask again
                continue
            self._handed_out.append(monotonic())
            self._remove(request)
            self._move_back(request)
            self._end_wait(request, turn)

    def __len__(self) -> int:
        return sum(len(line) for lines in self._lines.values() for line in lines.values())

    def _requests(self) -> Iterator[QueuedRequest]:
        for lines in self._lines.values():
            for line in lines.values():
                yield from line

    def by_model(self) -> Counter[str]:
        """Count the requests that wait for each model."""
        return Counter(request.model for request in self._requests())

    def _queued(self, model: str) -> int:
        """Count the requests that wait for one model, without the one that is being placed."""
        if not self._lines:
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
            "clients": sum(map(len, self._lines.values())),
            "by_model": dict(self.by_model()),
            "oldest_wait_seconds": round(max(waits, default=0.0), 3),
            "expected_wait_seconds": None if expected is None else round(expected, 1),
        }

    def _next(self, full: set[Need], stays: set[QueuedRequest]) -> QueuedRequest | None:
        """Find whose turn it is; None where nobody could have a place, or wants one.

        Among the next few clients with the same need, one whose prompt is in the cache of the
        free place goes first, unless it has overtaken one of those before it already, or one
        of them was overtaken often enough.
        """
        overtaken: list[QueuedRequest] = []
        for request in itertools.islice(self._firsts(full, stays), LOOKAHEAD):
            if overtaken and request.need != overtaken[0].need:
                continue  # what it could have may be none that the very next one could have
            passed = any(request.as_seen_by(one) in one.overtaken_by for one in overtaken)
            if not passed and request.held():
                for one in overtaken:
                    one.overtaken_by.add(request.as_seen_by(one))
                return request
            overtaken.append(request)
            if len(request.overtaken_by) >= OVERTAKING_LIMIT:
                break
        return overtaken[0] if overtaken else None

    def _firsts(self, full: set[Need], stays: set[QueuedRequest]) -> Iterator[QueuedRequest]:
        """Go through the first requests that can go, one of each client, as turns would come.

        Each address has one turn, with its next client, before any has another.
        """
        addresses = [iter(lines.values()) for lines in self._lines.values()]
        while addresses:
            left = []
            for lines in addresses:
                for line in lines:
                    first = _first(line, full, stays)
                    if first is not None:
                        yield first
                        left.append(lines)
                        break
            addresses = left

    def _end_wait(self, request: QueuedRequest, turn: Turn) -> None:
        """Call back soon: now, somebody else is giving a lease back."""
        request.turn = turn
        asyncio.get_running_loop().call_soon(_take_turn, request)

    def _time_out(self, request: QueuedRequest) -> None:
        ahead = self._ahead(request)
        self._remove(request)
        self._end_wait(request, QueueTimeout(ahead, self._expected(ahead)))

    def _ahead(self, request: QueuedRequest) -> int:
        """Count the requests that will be served before one."""
        lines = self._lines[request.address]
        before = list(lines[request.client]).index(request)
        others = (len(line) for client, line in lines.items() if client != request.client)
        before += sum(min(length, before + 1) for length in others)
        addresses = (x for address, x in self._lines.items() if address != request.address)
        lengths = (sum(map(len, lines.values())) for lines in addresses)
        return before + sum(min(length, before + 1) for length in lengths)

    def _expected(self, ahead: int) -> float | None:
        """Estimate, in seconds, how long it takes until so many and one more are served."""
        times = self._handed_out
        if len(times) < 2:
            return None
        return (ahead + 1) * (times[-1] - times[0]) / (len(times) - 1)

    def _remove(self, request: QueuedRequest) -> None:
        if request.timer is not None:
            request.timer.cancel()
            request.timer = None
        lines = self._lines.get(request.address, {})
        line = lines.get(request.client, {})
        line.pop(request, None)
        if not line:
            lines.pop(request.client, None)
        if not lines:
            self._lines.pop(request.address, None)

    def _move_back(self, request: QueuedRequest) -> None:
        """Let the next turn of a request's client, and of its address, be after all others'."""
        lines = self._lines.pop(request.address, None)
        if lines is not None:
            self._lines[request.address] = lines
            line = lines.pop(request.client, None)
            if line is not None:
                lines[request.client] = line


def _first(
    line: Iterable[QueuedRequest], full: set[Need], stays: set[QueuedRequest]
) -> QueuedRequest | None:
    """Find the first request of a client's that can go."""
    for request in line:
        if request.need not in full and request not in stays:
            return request
    return None


def _take_turn(request: QueuedRequest) -> None:
    turn, request.turn = request.turn, None
    if turn is not None:
        request.on_turn(turn)
