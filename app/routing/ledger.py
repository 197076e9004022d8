"""Requests in flight at one server: the leases, and the limit that they keep."""

from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self

from app.routing.observations import CacheReuse
from app.routing.prompt_cache import Occupancy, Prediction
from app.routing.prompt_change import PromptChange
from app.routing.saved_prompts import SlotFiles

Fault = Literal["read_timeout", "reset", "protocol", "status_5xx", "status_429"]
"""What a server did wrong with a request that reached it."""


HOUR: Final = 3600.0


class Considered(NamedTuple):
    """What the best place of a server costs, in seconds."""

    server: str
    read: float
    """To read what is in no cache there."""
    others: float
    """What others must read again."""


class Lease:
    """One request's hold on a server and an instance, until it is released.

    Releasing is synchronous and counts once, however often it is asked for, so it may
    stand in a `with`, in a `finally` and in a callback at the same time.
    """

    __slots__ = (
        "_let_go",
        "alone",
        "change",
        "client",
        "considered",
        "expected",
        "fault",
        "files",
        "held",
        "instance",
        "lingers",
        "load",
        "measured",
        "model",
        "occupancy",
        "open",
        "prediction",
        "reading_seconds",
        "reason",
        "retry_after",
        "reuse",
        "server",
        "shared",
        "since",
        "slot",
        "succeeded",
        "told",
        "worked",
    )

    def __init__(
        self,
        server: str,
        instance: str,
        *,
        model: str,
        client: str,
        reason: str,
        since: float,
        let_go: Callable[["Lease"], None],
    ) -> None:
        self.server = server
        self.instance = instance
        self.model = model
        self.client = client
        self.reason = reason
        self.since = since
        self.slot: int | None = None
        """The number of the slot that the server is asked to use."""
        self.prediction: Prediction | None = None
        """What the server's cache is believed to hold."""
        self.occupancy: Occupancy | None = None
        """Its prompt in that cache, until it is released."""
        self.files: SlotFiles | None = None
        """What is to be done with its slot before."""
        self.change: PromptChange | None = None
        """What changed in the conversation, so that its prompt is read again."""
        self.reading_seconds: float | None = None
        """How long the server read what was not in its cache: measured, or by its speed."""
        self.expected: float | None = None
        """Seconds to the first token, as they are expected."""
        self.considered: Sequence[Considered] = ()
        """The servers among which seconds decided, the cheapest first."""
        self.shared = ""
        """What it is called in the store that replicas share."""
        self.told = 0
        """By which number other replicas know its prompt; 0 where they do not."""
        self.alone = True
        """Whether the server reads nothing else before its prompt."""
        self.measured: float | None = None
        """Seconds that it took."""
        self.load = 0.0
        """Seconds until the model was in memory, as far as the server tells."""
        self.held = 0.0
        """Seconds that the request waited beside places that were held for others."""
        self.fault: Fault | None = None
        """What the server did wrong, if anything."""
        self.succeeded = False
        """Whether the server has completed the request."""
        self.retry_after = 0.0
        """Seconds that the server wants to be left alone (RFC 9110 section 10.2.3)."""
        self.open = True
        self.lingers = False
        """Whether its request has ended, but the server may not have noticed yet."""
        self.worked = True
        """Whether the server may have worked on the prompt, so that its cache holds it now."""
        self.reuse: CacheReuse | None = None
        """What the response report of the cache, if anything."""
        self._let_go = let_go

    def linger(self) -> None:
        """Note that the client is gone; the place stays taken until the server has noticed."""
        self.lingers = True
        if self.occupancy is not None:
            self.occupancy.left = True

    def release(self) -> None:
        """Free the place."""
        if self.open:
            self.open = False
            let_go, self._let_go = self._let_go, _released  # it holds the prompt
            let_go(self)
            self.occupancy = None

    def when_released(self, told: Callable[["Lease"], None]) -> None:
        """Have somebody be told as well, once the place is free."""
        let_go = self._let_go

        def both(lease: Lease) -> None:
            let_go(lease)
            told(lease)

        self._let_go = both

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        state = "open" if self.open else "released"
        return f"<Lease {self.server}/{self.instance} for {self.client} ({self.reason}, {state})>"


class Ledger:
    """The open leases of one server; how many there are is derived from them."""

    def __init__(self, limit: int | None = None, weight: float = 1.0) -> None:
        self.limit = limit
        self.foreign = 0
        """Requests at the server that did not come through us, as far as it tells."""
        self.others = 0
        """Leases that other replicas have there."""
        self.others_on: dict[str, int] = {}
        """Those of them that are known to be at an instance."""
        self.share: int | None = None
        """How many leases we may have while nobody knows what other replicas do."""
        self.weight = weight
        self.hourly: int | None = None
        """Most requests within an hour."""
        self.spent = False
        """Whether there were as many within the last hour."""
        self._hour: deque[float] = deque()
        self._open: dict[str, set[Lease]] = {}
        self._ended = 0

    @property
    def total(self) -> int:
        """Requests in flight, over all instances."""
        total = 0
        for leases in self._open.values():
            total += len(leases)
        return total

    @property
    def full(self) -> bool:
        """Whether one more request would pass a limit."""
        if self.share is not None and self.total >= self.share:
            return True
        at_limit = self.limit is not None and self.total + self.elsewhere >= self.limit
        return at_limit or self.spent

    @property
    def elsewhere(self) -> int:
        """Requests at the server that did not come through us, as far as anybody tells."""
        return max(self.foreign, self.others)

    @property
    def known_others(self) -> int:
        """Leases of other replicas of which is known what they are for."""
        return sum(self.others_on.values())

    def look_at_hour(self, now: float) -> None:
        """Forget what is longer ago than an hour; `now` is in seconds."""
        if self.hourly is None:
            self._hour.clear()
        while self._hour and self._hour[0] <= now - HOUR:
            self._hour.popleft()
        self.spent = self.hourly is not None and len(self._hour) >= self.hourly

    @property
    def load(self) -> float:
        """Requests at the server against its limit, or one place where it has none, and weight."""
        return (self.total + self.elsewhere) / ((self.limit or 1) * self.weight)

    @property
    def lingering(self) -> int:
        """Open leases whose requests have ended, but whose server may not have noticed yet."""
        return sum(lease.lingers for leases in self._open.values() for lease in leases)

    def stopped(self, at_work: int, asked_at: float) -> list[Lease]:
        """List the lingering leases that a server no longer works on.

        It was at work on `at_work` requests of anybody at `asked_at`, in seconds.
        """
        known = [x for x in self.leases() if x.since < asked_at]
        return [x for x in known if x.lingers][: max(0, len(known) - at_work)]

    def recent(self) -> int:
        """Count the requests in flight, and those that ended since this was asked last."""
        ended, self._ended = self._ended, 0
        return self.total + ended

    def on(self, instance: str) -> int:
        """Count the requests in flight at one instance, those of other replicas included."""
        leases = self._open.get(instance)
        count = len(leases) if leases else 0
        return count + self.others_on.get(instance, 0) if self.others_on else count

    def by_instance(self) -> dict[str, int]:
        """Count the requests in flight at every instance that has any."""
        return {instance: len(leases) for instance, leases in self._open.items()}

    def leases(self) -> list[Lease]:
        """List the open leases, oldest first."""
        return sorted((x for leases in self._open.values() for x in leases), key=lambda x: x.since)

    def enter(self, lease: Lease) -> None:
        """Book an open lease."""
        self._open.setdefault(lease.instance, set()).add(lease)
        if self.hourly is not None:
            self._hour.append(lease.since)
            self.look_at_hour(lease.since)

    def strike(self, lease: Lease) -> None:
        """Take a lease out of the book."""
        leases = self._open[lease.instance]
        leases.remove(lease)
        if not leases:
            del self._open[lease.instance]
        self._ended += 1

    def __repr__(self) -> str:
        limit = "no limit" if self.limit is None else f"limit {self.limit}"
        return f"<Ledger {self.total} in flight, {limit}>"


def _released(_: Lease) -> None:
    """Stand for what was to be done at a release, once it is done."""
