"""The façade of routing: an ask comes in, a lease goes out; news comes in, a snapshot goes out."""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from enum import Enum
from typing import Literal

from app.routing.budget import RetryBudget
from app.routing.choice import Ask, Choice, able, available, choose, recall, stay
from app.routing.fleet import Fleet
from app.routing.ledger import Fault, Lease, Ledger
from app.routing.news import Asked, Failure, HealthAnswer, ModelsAnswer, News, Report, Reuse
from app.routing.prefix_index import PrefixIndex
from app.routing.residency import WORTH_KEEPING, Match, Residency
from app.routing.standing import Change, Standing, Status
from app.routing.sticky import Pin, Sticky
from app.routing.window import FALL, RISE, Window


class Refusal(Enum):
    """Why there is no lease."""

    FULL = "full"
    """Every server that may take the request is at its limit: wait."""
    UNASKED = "unasked"
    """A server that may take the request was not asked for its models yet: wait."""
    DOWN = "down"
    """No server that has the model can be reached, and the others must not answer for it."""
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

MOST_HOLDERS = 32
"""Where more caches hold what a prompt may continue, all servers are looked at."""

MEASURABLE = 200
"""Fewest tokens whose reading tells something about a server's speed."""


class Balancer:
    """Knows every server's standing and every open lease.

    It is synchronous: choosing a server and booking the lease are one step, so no race can
    pass a limit. `clock` tells seconds on a monotonic clock, `chance` gives numbers from 0 to 1.
    `on_room` is called when a place may have become free, `on_change` when a server's status
    has changed, with what it was before; `queued` tells how many requests wait for a model.
    `overflow="first"` sends what finds everything full to the first server; `adopt_slots` takes
    a server's slots for its limit where it has none; `numbered` takes `model-2` for an instance
    of `model`.
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
        numbered: bool = True,
        rise: int = RISE,
        fall: int = FALL,
        chance: Callable[[], float] = lambda: 0.5,
    ) -> None:
        self.fleet = fleet
        self.on_room: Callable[[], None] = lambda: None
        self.on_change: Callable[[Standing, Status], None] = lambda *_: None
        self.queued: Callable[[str], int] = lambda _: 0
        self.ejections: Counter[tuple[str, Fault]] = Counter()
        """Ejections, by server and what for."""
        self._chance = chance
        self._retries = RetryBudget()
        self._unasked: set[str] = set()
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
        self._index = PrefixIndex[Residency]()
        self._adopt_slots = adopt_slots
        self._standings = {
            name: Standing(
                server,
                Ledger(server.request_max, server.weight),
                Window(
                    window_length, has_health=server.health_base is not None, rise=rise, fall=fall
                ),
                stale_after=sticky_ttl,
                numbered=numbered,
                index=self._index,
            )
            for name, server in fleet.servers.items()
        }

    def await_answers(self) -> None:
        """Hold requests until each server that may take them was asked once (`Asked`)."""
        self._unasked = set(self._standings)

    def place(self, ask: Ask, tried: Collection[str] = ()) -> Lease | Refusal:
        """Choose a server and instance that were not tried yet, and book the lease.

        `tried` names the servers that could not be reached for this request.
        """
        now = self._clock()
        choice = self._recall(ask, tried, now)
        if choice is None:
            candidates, choice = self._choose(ask, tried, now)
            if choice is None:
                return self._refusal(ask, candidates, tried)
        routed = choice.reason != "fallback"
        if routed:
            self.lookups[self._lookup(ask, choice, now)] += 1
            self._pin(ask, choice, now)
        return self._book(ask, choice, now, pinned=routed)

    def place_again(self, ask: Ask, tried: Collection[str]) -> Lease | None:
        """Choose another server for a request that one has turned away, and book the lease.

        None where no other has room, or where too many requests were tried twice already.
        """
        if not self._retries.spend(self._clock()):
            return None
        lease = self.place(ask, tried)
        if isinstance(lease, Lease):
            return lease
        self._retries.give_back()
        return None

    def holding(self, ask: Ask) -> list[str]:
        """Name the servers that are known to have a model, up or down."""
        names = self.fleet.candidates(ask.model) or () if ask.routed else ()
        return [name for name in names if self._standings[name].listed(ask.names)]

    def holds(self, ask: Ask, tried: Collection[str] = ()) -> bool:
        """Whether a request, placed now, would find its prompt in a cache."""
        if ask.prompt is None or ask.prompt.size < WORTH_KEEPING:
            return False
        now = self._clock()
        choice = self._recall(ask, tried, now) or self._choose(ask, tried, now)[1]
        return choice is not None and choice.reason in ("cached_prompt", "remembered_prompt")

    def consider(self, ask: Ask) -> tuple[Sequence[Standing], Choice | None]:
        """Tell who might get a request and who would, and send nothing anywhere."""
        return self._choose(ask, (), self._clock())

    def learn(self, news: News) -> None:
        """Take in what a probe or a request found out about a server."""
        standing = self._standings[news.server]
        before = standing.status
        reason = "probe"
        match news:
            case Failure(silent=True) if standing.ledger.total:
                return  # a server at work may be late; that nothing listens would be known
            case Failure(side=side, unreachable=unreachable):
                reason = news.reason
                standing.window.failed(side, unreachable=unreachable)
                if standing.window.gone:
                    standing.went_away()
            case HealthAnswer(sample=sample):
                standing.window.add(sample)
            case Asked():
                self._unasked.discard(news.server)
            case ModelsAnswer(models=models):
                standing.window.answered()
                standing.list_models(models)
            case Report():
                self._learn_report(standing, news)
        self._note_change(standing, before, reason)
        self.on_room()

    def _learn_report(self, standing: Standing, report: Report) -> None:
        standing.window.answered()
        standing.report(report)
        if self._adopt_slots and standing.server.request_max is None and not report.loading:
            standing.ledger.limit = report.slots
        if report.at_work is not None:
            for lease in standing.ledger.stopped(report.at_work, report.asked_at):
                lease.release()

    def drain(self, server: str, *, on: bool) -> None:
        """Give a server no new requests, or give it some again; those in flight go on."""
        standing = self._standings[server]
        before = standing.status
        standing.draining = on
        self._note_change(standing, before, "admin")
        self.on_room()

    def now(self) -> float:
        """Tell the time, in seconds."""
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

    def _recall(self, ask: Ask, tried: Collection[str], now: float) -> Choice | None:
        """Find who holds what a request continues; None: all servers must be looked at."""
        names = self.fleet.candidates(ask.model) if ask.routed else None
        if names is None or self._unasked:
            return None
        prompt = ask.prompt
        if prompt is None or prompt.size < WORTH_KEEPING:
            pin = self._sticky.find(ask.client, ask.model, now)
            return None if pin is None else stay(ask, pin, self._standings, names, now, tried)
        holders = self._index.find(prompt)
        if not holders or len(holders) > MOST_HOLDERS:
            return None
        return recall(ask, prompt, holders, self._standings, names, now, tried)

    def _choose(
        self, ask: Ask, tried: Collection[str], now: float
    ) -> tuple[list[Standing], Choice | None]:
        """Tell who might get a request, and who gets it."""
        names = self.fleet.candidates(ask.model) if ask.routed else None
        if names is None:
            return self._choose_fallback(ask, tried, now)
        standings = self._standings
        candidates = [standings[name] for name in names]
        if self._unasked and not self._unasked.isdisjoint(names):
            return candidates, None
        pin = self._sticky.find(ask.client, ask.model, now)
        choice = choose(ask, candidates, pin, now, tried, self.queued)
        if choice is None and self._overflow == "first":
            for first in available(ask, candidates, now, tried, full=True)[:1]:
                choice = Choice(first.server.name, first.served_name(ask.names), "overflow")
        return candidates, choice

    def _refusal(self, ask: Ask, candidates: Sequence[Standing], tried: Collection[str]) -> Refusal:
        """Say why nobody was chosen."""
        if any(s.server.name in self._unasked for s in candidates) and ask.routed:
            return Refusal.UNASKED
        if able(ask, candidates, tried):
            return Refusal.FULL
        if any(s.listed(ask.names) for s in candidates):
            return Refusal.DOWN
        return Refusal.UNKNOWN

    def _choose_fallback(
        self, ask: Ask, tried: Collection[str], now: float
    ) -> tuple[list[Standing], Choice | None]:
        name = self.fleet.fallback
        if name is None or name in tried:
            return [], None
        standing = self._standings[name]
        if not available(ask, [standing], now, full=self._overflow == "first"):
            return [standing], None
        choice = Choice(name, standing.served_name(ask.names), "fallback")
        return [standing], choice

    def _book(self, ask: Ask, choice: Choice, now: float, *, pinned: bool) -> Lease:
        standing = self._standings[choice.server]
        self._retries.earn()
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
            self._judge(standing, lease, now)
            if lease.reuse is not None:
                self._learn_reuse(standing, lease, lease.reuse)
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
        standing.note(choice.instance, now)
        if not standing.ejection.quiet:
            standing.ejection.booked(lease, now)
        self.decisions.append(lease)
        return lease

    def _learn_reuse(self, standing: Standing, lease: Lease, told: Reuse) -> None:
        """Hold what a server's cache was believed to hold against what an answer tells."""
        read = told.prompt - (told.cached or 0)
        if told.seconds is not None and told.seconds > 0 and read >= MEASURABLE:
            standing.read_prompt(read, told.seconds)
        if told.cached is None or not told.prompt:
            return
        kind = None if standing.told is None else standing.told.kind
        if not told.cached and kind is not None and kind.denies_cached_tokens:
            return
        name, claim = standing.server.name, lease.claim
        self.tokens[name, "cache"] += told.cached
        self.tokens[name, "work"] += read
        if claim is None:
            return
        expected = HELD * (claim.share or claim.possible) * told.prompt
        if expected and kind is not None and kind.cache_block:
            expected -= kind.cache_block
            if expected <= 0:
                return  # so little says nothing
        held = 0 < expected <= told.cached
        if claim.match <= Match.REMEMBERED:
            result: Forecast = "hit" if held else "miss"
        else:
            result = "surprise" if held else "none"
        self.forecasts[name, result] += 1
        if claim.rank is not None:
            standing.residency(lease.instance).correct(claim.rank, held=held)

    def _judge(self, standing: Standing, lease: Lease, now: float) -> None:
        """Learn about a server from how a request has ended there."""
        ejection = standing.ejection
        if lease.succeeded:
            standing.complete(now - lease.since)
            if ejection.quiet and standing.window.valid and not standing.window.troubled:
                return
        before = standing.status
        reason = "response"
        if lease.succeeded:
            ejection.completed(lease, now)
            standing.window.served()
        elif lease.fault is None:
            ejection.given_up(lease)
        elif ejection.failed(lease, lease.fault, now, self._chance()):
            self.ejections[standing.server.name, lease.fault] += 1
        if ejection.ejected and ejection.reason is not None:
            reason = ejection.reason
        self._note_change(standing, before, reason)

    def _note_change(self, standing: Standing, before: Status, reason: str) -> None:
        status = standing.status
        if status != before:
            standing.entered[status] += 1
            standing.changed = Change(status, reason, self._clock())
            self.on_change(standing, before)

    def _lookup(self, ask: Ask, choice: Choice, now: float) -> Lookup:
        pin = self._sticky.find(ask.client, ask.model, now)
        if pin is not None:
            same = pin.instance == choice.instance and pin.server == choice.server
            return "hit" if same else "unusable"
        return "expired" if self._sticky.remembers(ask.client, ask.model) else "miss"

    def _pin(self, ask: Ask, choice: Choice, now: float) -> None:
        pin = Pin(choice.server, choice.instance, ask.address, now)
        self._sticky.put(ask.client, ask.model, pin)
