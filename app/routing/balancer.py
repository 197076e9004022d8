"""The façade of routing: an ask comes in, a lease goes out; news comes in, a snapshot goes out."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from enum import Enum
from typing import Literal

from app.routing.choice import Ask, Choice, Standing, choose
from app.routing.fleet import Fleet
from app.routing.ledger import Lease, Ledger
from app.routing.news import Failure, HealthAnswer, ModelsAnswer, News
from app.routing.sticky import Pin, Sticky
from app.routing.window import Window


class Refusal(Enum):
    """Why there is no lease."""

    FULL = "full"
    """Every server that may take the request is at its limit: wait."""
    UNKNOWN = "unknown"
    """No server is left to try, or none is configured."""


Lookup = Literal["hit", "miss", "expired", "unusable"]
"""What came of the look for a client's pin; unusable where its server is down or full."""


class Balancer:
    """Knows every server's standing and every open lease.

    It is synchronous: choosing a server and booking the lease are one step, so no race can
    pass a limit. `clock` tells seconds since the epoch. `on_room` is called when a place may
    have become free; `overflow="first"` sends what finds everything full to the first server.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        clock: Callable[[], float],
        sticky_ttl: float = 180.0,
        window_length: int = 5,
        overflow: Literal["queue", "first"] = "queue",
    ) -> None:
        self.fleet = fleet
        self.on_room: Callable[[], None] = lambda: None
        self._clock = clock
        self._overflow = overflow
        self._sticky = Sticky(sticky_ttl)
        self.evictions = self._sticky.evictions
        """Pins that were forgotten, by reason."""
        self.lookups: Counter[Lookup] = Counter({"hit": 0, "miss": 0, "expired": 0, "unusable": 0})
        """Requests by what came of the look for their client's pin."""
        self._standings = {
            name: Standing(
                server,
                Ledger(server.request_max),
                Window(window_length, has_health=server.health_base is not None),
            )
            for name, server in fleet.servers.items()
        }

    def place(self, ask: Ask, tried: Collection[str] = ()) -> Lease | Refusal:
        """Choose a server and instance that were not tried yet, and book the lease.

        `tried` names the servers that could not be reached for this request.
        """
        names = self.fleet.candidates(ask.model)
        if names is None:
            return self._place_on_fallback(ask, tried)
        candidates = [self._standings[name] for name in names if name not in tried]
        if not candidates:
            return Refusal.UNKNOWN
        pin = self._sticky.find(ask.client, ask.model, self._clock())
        choice = choose(ask, candidates, pin)
        if choice is None:
            if self._overflow == "queue":
                return Refusal.FULL
            first = candidates[0]
            choice = Choice(first.server.name, first.served_name(ask.names), "overflow")
        self.lookups[self._lookup(ask, pin, choice)] += 1
        self._pin(ask, choice)
        return self._book(ask, choice, pinned=True)

    def place_unrouted(
        self, endpoint: str, client: str, tried: Collection[str] = ()
    ) -> Lease | Refusal:
        """Book a lease at the fallback for a model request that is not routed by its model."""
        return self._place_on_fallback(Ask(endpoint, (endpoint,), client, client), tried)

    def learn(self, news: News) -> None:
        """Take in what a probe or a request found out about a server."""
        standing = self._standings[news.server]
        before = standing.window.status
        match news:
            case Failure(side=side, unreachable=unreachable):
                standing.window.failed(side, unreachable=unreachable)
            case HealthAnswer(sample=sample):
                standing.window.add(sample)
            case ModelsAnswer(models=models):
                standing.window.answered()
                standing.list_models(models)
        if standing.window.status != before:
            standing.entered[standing.window.status] += 1
        self.on_room()

    def standings(self) -> Iterator[Standing]:
        """Go through the servers, in configured order, as they stand now."""
        yield from self._standings.values()

    def standing(self, server: str) -> Standing:
        """Tell how one server stands now."""
        return self._standings[server]

    def pins(self) -> list[tuple[str, str, Pin]]:
        """List the live pins as (client, model asked for, pin)."""
        return list(self._sticky.items(self._clock()))

    def _place_on_fallback(self, ask: Ask, tried: Collection[str]) -> Lease | Refusal:
        name = self.fleet.fallback
        if name is None or name in tried:
            return Refusal.UNKNOWN
        standing = self._standings[name]
        if standing.ledger.full and self._overflow == "queue":
            return Refusal.FULL
        choice = Choice(name, standing.served_name(ask.names), "fallback")
        return self._book(ask, choice, pinned=False)

    def _book(self, ask: Ask, choice: Choice, *, pinned: bool) -> Lease:
        ledger = self._standings[choice.server].ledger

        def let_go(lease: Lease) -> None:
            ledger.strike(lease)
            if pinned:
                self._pin(ask, choice)
            self.on_room()

        lease = Lease(
            choice.server,
            choice.instance,
            model=ask.model,
            client=ask.client,
            reason=choice.reason,
            since=self._clock(),
            let_go=let_go,
        )
        ledger.enter(lease)
        return lease

    def _lookup(self, ask: Ask, pin: Pin | None, choice: Choice) -> Lookup:
        if pin is not None:
            return "hit" if choice.reason == "sticky" else "unusable"
        return "expired" if self._sticky.remembers(ask.client, ask.model) else "miss"

    def _pin(self, ask: Ask, choice: Choice) -> None:
        pin = Pin(choice.server, choice.instance, ask.address, self._clock())
        self._sticky.put(ask.client, ask.model, pin)
