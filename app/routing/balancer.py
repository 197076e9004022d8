"""The façade of routing: an ask comes in, a lease goes out; news comes in, a snapshot goes out."""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from enum import Enum
from typing import Literal

from app.routing.choice import Ask, Choice, choose
from app.routing.fleet import Fleet
from app.routing.ledger import Lease, Ledger
from app.routing.news import Failure, HealthAnswer, ModelsAnswer, News, Report, Reuse
from app.routing.residency import WORTH_KEEPING, Match
from app.routing.standing import Standing
from app.routing.sticky import Pin, Sticky
from app.routing.window import Window


class Refusal(Enum):
    """Why there is no lease."""

    FULL = "full"
    """Every server that may take the request is at its limit: wait."""
    UNKNOWN = "unknown"
    """No server is left to try, or none is configured."""


Lookup = Literal["hit", "miss", "expired", "unusable"]
"""What came of a client's pin; unusable where the request went elsewhere."""

Forecast = Literal["hit", "miss", "surprise", "none"]
"""What came of what a server's cache was believed to hold: the prompt that is continued was
there; it was not; it was, although it was believed gone; it was gone, or there is none."""

Source = Literal["cache", "work"]
"""Where a prompt's tokens came from: they were in a cache, or had to be worked on."""

DECISIONS = 30
"""How many of the last decisions are kept to be shown."""

HELD = 0.8
"""The part of what was expected from a cache that must have come for it to have been there.

Less may be a system prompt that all share. More cannot be asked for: prompts are measured in
characters here, and in tokens there.
"""

VLLM_BLOCK = 128
"""vLLM caches whole blocks, of as many tokens at most: a prompt's last one may be missing."""

MEASURABLE = 200
"""Fewest tokens whose reading tells something about a server's speed."""


class Balancer:
    """Knows every server's standing and every open lease.

    It is synchronous: choosing a server and booking the lease are one step, so no race can
    pass a limit. `clock` tells seconds since the epoch. `on_room` is called when a place may
    have become free; `overflow="first"` sends what finds everything full to the first server;
    `adopt_slots` takes a server's slots for its limit where it has none.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        clock: Callable[[], float],
        sticky_ttl: float = 180.0,
        window_length: int = 5,
        overflow: Literal["queue", "first"] = "queue",
        adopt_slots: bool = True,
    ) -> None:
        self.fleet = fleet
        self.on_room: Callable[[], None] = lambda: None
        self._clock = clock
        self._overflow = overflow
        self._sticky = Sticky(sticky_ttl)
        self.evictions = self._sticky.evictions
        """Pins that were forgotten, by reason."""
        self.lookups: Counter[Lookup] = Counter({"hit": 0, "miss": 0, "expired": 0, "unusable": 0})
        """Requests by what came of their client's pin."""
        self.forecasts: Counter[tuple[str, Forecast]] = Counter()
        """Answers that told of their cache, by server and what came of our belief."""
        self.tokens: Counter[tuple[str, Source]] = Counter()
        """Tokens of prompts, by server and where they came from."""
        self.decisions: deque[Lease] = deque(maxlen=DECISIONS)
        """The last leases."""
        self._adopt_slots = adopt_slots
        self._standings = {
            name: Standing(
                server,
                Ledger(server.request_max, server.weight),
                Window(window_length, has_health=server.health_base is not None),
                stale_after=sticky_ttl,
            )
            for name, server in fleet.servers.items()
        }

    def place(self, ask: Ask, tried: Collection[str] = ()) -> Lease | Refusal:
        """Choose a server and instance that were not tried yet, and book the lease.

        `tried` names the servers that could not be reached for this request.
        """
        now = self._clock()
        candidates, pin, choice = self._choose(ask, tried, now)
        if choice is None:
            return Refusal.FULL if candidates else Refusal.UNKNOWN
        routed = choice.reason != "fallback"
        if routed:
            self.lookups[self._lookup(ask, pin, choice)] += 1
            self._pin(ask, choice, now)
        return self._book(ask, choice, now, pinned=routed)

    def holds(self, ask: Ask, tried: Collection[str] = ()) -> bool:
        """Whether a request, placed now, would find its prompt in a cache."""
        if ask.prompt is None or ask.prompt.size < WORTH_KEEPING:
            return False
        _, _, choice = self._choose(ask, tried, self._clock())
        return choice is not None and choice.reason in ("cached_prompt", "remembered_prompt")

    def consider(self, ask: Ask) -> tuple[Sequence[Standing], Choice | None]:
        """Tell who might get a request and who would, and send nothing anywhere."""
        candidates, _, choice = self._choose(ask, (), self._clock())
        return candidates, choice

    def learn(self, news: News) -> None:
        """Take in what a probe or a request found out about a server."""
        standing = self._standings[news.server]
        before = standing.status
        match news:
            case Failure(side=side, unreachable=unreachable):
                standing.window.failed(side, unreachable=unreachable)
                if standing.window.gone:
                    standing.went_away()
            case HealthAnswer(sample=sample):
                standing.window.add(sample)
            case ModelsAnswer(models=models):
                standing.window.answered()
                standing.list_models(models)
            case Report():
                standing.window.answered()
                standing.report(news)
                adopts = self._adopt_slots and standing.server.request_max is None
                if adopts and not news.loading:
                    standing.ledger.limit = news.slots
                if news.at_work is not None:
                    for lease in standing.ledger.stopped(news.at_work, news.asked_at):
                        lease.release()
        if standing.status != before:
            standing.entered[standing.status] += 1
        self.on_room()

    def drain(self, server: str, *, on: bool) -> None:
        """Give a server no new requests, or give it some again; those in flight go on."""
        standing = self._standings[server]
        if standing.draining != on:
            standing.draining = on
            standing.entered[standing.status] += 1
            self.on_room()

    def now(self) -> float:
        """Tell the time, in seconds since the epoch."""
        return self._clock()

    def standings(self) -> Iterator[Standing]:
        """Go through the servers, in configured order, as they stand now."""
        yield from self._standings.values()

    def standing(self, server: str) -> Standing:
        """Tell how one server stands now."""
        return self._standings[server]

    def pins(self) -> list[tuple[str, str, Pin]]:
        """List the live pins as (client, model asked for, pin)."""
        return list(self._sticky.items(self._clock()))

    def _choose(
        self, ask: Ask, tried: Collection[str], now: float
    ) -> tuple[list[Standing], Pin | None, Choice | None]:
        """Tell who might get a request, where its client was, and who gets it."""
        names = self.fleet.candidates(ask.model) if ask.routed else None
        if names is None:
            return self._choose_fallback(ask, tried)
        candidates = [self._standings[name] for name in names if name not in tried]
        if not candidates:
            return candidates, None, None
        pin = self._sticky.find(ask.client, ask.model, now)
        choice = choose(ask, candidates, pin, now)
        if choice is None and self._overflow == "first":
            first = next((s for s in candidates if s.willing), None)
            if first is not None:
                choice = Choice(first.server.name, first.served_name(ask.names), "overflow")
        return candidates, pin, choice

    def _choose_fallback(
        self, ask: Ask, tried: Collection[str]
    ) -> tuple[list[Standing], None, Choice | None]:
        name = self.fleet.fallback
        if name is None or name in tried:
            return [], None, None
        standing = self._standings[name]
        if not (standing.willing if self._overflow == "first" else standing.open):
            return [standing], None, None
        choice = Choice(name, standing.served_name(ask.names), "fallback")
        return [standing], None, choice

    def _book(self, ask: Ask, choice: Choice, now: float, *, pinned: bool) -> Lease:
        standing = self._standings[choice.server]
        ledger, fit = standing.ledger, choice.fit
        stay = None
        if fit is not None and ask.prompt is not None:
            standing.keep(choice.instance, fit.residency)
            stay = fit.residency.take(fit, ask.prompt, now)

        def let_go(lease: Lease) -> None:
            ledger.strike(lease)
            now = self._clock()
            if stay is not None:
                stay.end(now, worked=lease.worked)
            if pinned:
                self._pin(ask, choice, now)
            self.on_room()

        lease = Lease(
            choice.server,
            choice.instance,
            model=ask.model,
            client=ask.client,
            reason=choice.reason,
            since=now,
            let_go=let_go,
            slot=standing.name_slot(stay.slot if stay is not None and ask.takes_slot else None),
            claim=None if stay is None else stay.claim,
        )
        ledger.enter(lease)
        standing.note(choice.instance)
        self.decisions.append(lease)
        return lease

    def learn_reuse(self, news: Reuse) -> None:
        """Hold what a server's cache was believed to hold against what an answer tells."""
        standing = self._standings[news.server]
        read = news.prompt - (news.cached or 0)
        if news.seconds is not None and news.seconds > 0 and read >= MEASURABLE:
            standing.read_prompt(read, news.seconds)
        if news.cached is None or not news.prompt:
            return
        kind = None if standing.told is None else standing.told.kind
        if not news.cached and kind == "ollama":
            return  # its API for responses says 0 whatever was cached, and its others nothing
        name, claim = standing.server.name, news.claim
        self.tokens[name, "cache"] += news.cached
        self.tokens[name, "work"] += read
        if claim is None:
            return
        expected = HELD * (claim.share or claim.possible) * news.prompt
        if expected and kind == "vllm":
            expected -= VLLM_BLOCK
            if expected <= 0:
                return  # so little says nothing
        held = 0 < expected <= news.cached
        if claim.match <= Match.REMEMBERED:
            result: Forecast = "hit" if held else "miss"
        else:
            result = "surprise" if held else "none"
        self.forecasts[name, result] += 1
        if claim.rank is not None:
            standing.residency(news.instance).correct(claim.rank, held=held)

    def _lookup(self, ask: Ask, pin: Pin | None, choice: Choice) -> Lookup:
        if pin is not None:
            same = pin.instance == choice.instance and pin.server == choice.server
            return "hit" if same else "unusable"
        return "expired" if self._sticky.remembers(ask.client, ask.model) else "miss"

    def _pin(self, ask: Ask, choice: Choice, now: float) -> None:
        pin = Pin(choice.server, choice.instance, ask.address, now)
        self._sticky.put(ask.client, ask.model, pin)
