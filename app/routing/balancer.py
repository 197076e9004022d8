"""The façade of routing: asks come in, leases go out; observations come in."""

import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Final, Literal, Protocol

from app.routing import slot_files
from app.routing.backend import Backend, Change, Status
from app.routing.budget import RetryBudget
from app.routing.choice import (
    Ask,
    Choice,
    Weighed,
    able,
    available,
    choose,
    follow_pin,
    lowest_tier,
    recall,
    visit,
)
from app.routing.costs import NOTHING, Cost, best_placement, cost_here
from app.routing.fleet import Fleet, Server
from app.routing.health_window import FALL, RISE, HealthWindow
from app.routing.ledger import Fault, Lease, Ledger
from app.routing.model_turns import ModelTurns
from app.routing.observations import (
    MEASURABLE,
    CacheReuse,
    ContextSeen,
    HealthSeen,
    Introduced,
    ModelsSeen,
    Observation,
    ProbeFailed,
    SelfReport,
)
from app.routing.pins import Pin, Pins
from app.routing.prefix_index import PrefixIndex
from app.routing.prompt import Prompt
from app.routing.prompt_cache import WORTH_KEEPING, Match, Occupancy, Placement, PromptCache, Slot
from app.routing.saved_prompts import SlotFiles
from app.routing.seconds import NEGLIGIBLE, Seconds
from app.routing.sleep import State


class Refusal(Enum):
    """Why there is no lease."""

    FULL = "full"
    """Every server that may take the request is at its limit: wait."""
    BEING_LEFT = "being left"
    """What it continues is at a full server, whose request for a client that left ends: wait."""
    HELD = "held"
    """A place is held for whom it is cheaper, or the prompt is at a server that is full: wait."""
    WAKING = "waking"
    """A server that may take the request is being woken: wait."""
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

DECISIONS: Final = 30
"""How many of the last decisions are kept to be shown."""

HELD: Final = 0.8
"""The part of what was expected from a cache that must have come for it to have been there.

Less may be a system prompt that all share. More cannot be asked for: prompts are measured in
characters here, and in tokens there.
"""

MOST_HOLDERS: Final = 32
"""Where more caches hold what a prompt may continue, all servers are looked at."""

CHARACTERS_PER_TOKEN: Final = 4.0
"""What is believed of a model until a response has told: English text has as many."""

LEAST_CHARACTERS: Final = 0.2
MOST_CHARACTERS: Final = 16.0
"""Characters per token that are believed: an image has many tokens, and some servers count none."""

MOST_MODELS: Final = 200
"""Models whose characters per token are remembered."""

ADMIN: Final = "admin"
"""Drains a server by hand."""

TRUSTED: Final = 10.0
"""Seconds for which a completed request outweighs what another replica tells of a server."""

HINT: Final = 30.0
"""Seconds by which a server that a request would like may cost it more than another."""


class Witness(Protocol):
    """Whoever tells other replicas of the balancer what this one does and learns."""

    def pinned(self, client: str, model: str, pin: Pin) -> None:
        """Note where a client's request for a model went."""

    def ejected(self, server: str, fault: Fault, until: float) -> None:
        """Note that a server is left alone for a while."""

    def returned(self, server: str) -> None:
        """Note that it is not any more."""

    def drained(self, server: str, *, on: bool) -> None:
        """Note that an administrator has a server get nothing more, or something again."""


class Balancer:
    """Knows every server's backend and every open lease.

    It is synchronous: choosing a server and booking the lease are one step, so no race can
    pass a limit. `clock` tells seconds on a monotonic clock, `chance` gives numbers from 0 to 1.
    `on_room` is called when a place may have become free, `on_change` when a server's status
    has changed, with what it was before, `on_introduced` when a server was asked for all there is
    to know of it, `on_wake` when one is to be woken; `queued` tells how many requests wait for a
    model.
    A request waits `tier_wait` seconds before it takes a server of a higher tier than it could.
    For `hold_max` and `wait_max` see `Seconds`, for `pinned` see `ModelTurns`.
    `saved_prompts` is how many prompts a server keeps in files that can.
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
        tier_wait: float = 0.0,
        hold_max: float = 0.0,
        wait_max: float = math.inf,
        pinned: Callable[[str], bool] | None = None,
        saved_prompts: int = 0,
        chance: Callable[[], float] = lambda: 0.5,
    ) -> None:
        self.fleet = fleet
        self.on_room: Callable[[], None] = lambda: None
        self.on_change: Callable[[Backend, Status], None] = lambda *_: None
        self.on_introduced: Callable[[Backend], None] = lambda _: None
        self.on_wake: Callable[[Backend], None] = lambda _: None
        self.queued: Callable[[str], int] = lambda _: 0
        self.queued_elsewhere: Callable[[str], int] = lambda _: 0
        """Tells how many requests wait for a model at other replicas."""
        self.witness: Witness | None = None
        """Who tells other replicas, if there may be any."""
        self.ejections: Counter[tuple[str, Fault]] = Counter()
        """Ejections, by server and what for."""
        self._chance = chance
        self._retries = RetryBudget()
        self.version = 0
        """How often places were taken and given back."""
        self._unasked: set[str] = set()
        self._new: set[str] = set()
        """Servers that were added, and not asked yet."""
        self._clock = clock
        self._overflow = overflow
        self._pins = Pins(sticky_ttl)
        self.evictions = self._pins.evictions
        """Pins that were forgotten, by reason."""
        self.lookups: dict[Lookup, int] = {"hit": 0, "miss": 0, "expired": 0, "unusable": 0}
        """Requests by what came of their client's pin."""
        self.forecasts: Counter[tuple[str, Forecast]] = Counter()
        """Responses that report of their cache, by server and what came of our belief."""
        self.tokens: Counter[tuple[str, Source]] = Counter()
        """Tokens of prompts, by server and where they came from."""
        self.decisions: deque[Lease] = deque(maxlen=DECISIONS)
        """The last leases."""
        self._index = PrefixIndex[Slot | PromptCache]()
        self._characters: dict[str, float] = {}  # per token, by model
        self._least_context = 0
        self._adopt_slots = adopt_slots
        self._numbered = numbered
        self._window_length, self._rise, self._fall = window_length, rise, fall
        self._saved_prompts = saved_prompts
        self.tier_wait = tier_wait
        """Seconds that a request waits for a server of a lower tier."""
        self.seconds = Seconds(hold_max, wait_max)
        self._model_turns = ModelTurns(self.seconds, pinned)
        self._leaving: list[Backend] = []
        """Servers that were removed while they were at work."""
        self._backends = {name: self._begin(server) for name, server in fleet.servers.items()}
        self._measure_contexts()

    def reconfigure(
        self,
        fleet: Fleet,
        *,
        sticky_ttl: float,
        window_length: int,
        overflow: Literal["queue", "first"],
        adopt_slots: bool,
        numbered: bool,
        rise: int,
        fall: int,
        tier_wait: float,
        hold_max: float,
        wait_max: float,
        pinned: Callable[[str], bool] | None,
        saved_prompts: int,
    ) -> None:
        """Take other settings from now on. What is known of a server that stays is kept.

        A server that is removed gets nothing more; what is in flight there ends as it would
        have, and counts against its limit if it is added again meanwhile. One that is added
        is waited for by requests for models that no other server is known to have.
        """
        self._overflow = overflow
        self._adopt_slots = adopt_slots
        self._numbered = numbered
        self._window_length, self._rise, self._fall = window_length, rise, fall
        self._saved_prompts = saved_prompts
        self.tier_wait = tier_wait
        self.seconds.change(hold_max, wait_max)
        self._model_turns.change(pinned)
        self._pins.ttl = sticky_ttl
        before = self._backends
        self._backends = {name: self._go_on(server) for name, server in fleet.servers.items()}
        self.fleet = fleet
        staying = {id(backend) for backend in self._backends.values()}
        removed = [backend for backend in before.values() if id(backend) not in staying]
        for backend in removed:
            backend.went_away()
            backend.drained_by.clear()
        known = [*self._leaving, *removed]
        self._leaving = [b for b in known if b.ledger.total and id(b) not in staying]
        stay = {name for name, backend in self._backends.items() if before.get(name) is backend}
        self._pins.keep(stay)
        self._measure_contexts()
        added = self._backends.keys() - stay
        self._unasked &= self._backends.keys()
        self._new = (self._new | added) & self._backends.keys()
        self.on_room()

    def _begin(self, server: Server) -> Backend:
        return Backend(
            server,
            Ledger(server.request_max, server.weight),
            HealthWindow(
                self._window_length,
                has_health=server.health_base is not None,
                rise=self._rise,
                fall=self._fall,
            ),
            stale_after=self._pins.ttl,
            numbered=self._numbered,
            saved_prompts=self._saved_prompts,
            index=self._index,
        )

    def _go_on(self, server: Server) -> Backend:
        """Return what is known of a server under its name and address, or begin to know it."""
        known = self._backends.get(server.name)
        if known is None or not known.server.is_same(server):
            known = next((b for b in self._leaving if b.server.is_same(server)), None)
        if known is None:
            return self._begin(server)
        report = known.self_report
        limit = server.request_max
        if limit is None and self._adopt_slots and report is not None:
            limit = report.slots
        known.health.change(
            self._window_length,
            has_health=server.health_base is not None,
            rise=self._rise,
            fall=self._fall,
            anew=server.health_base != known.server.health_base,
        )
        known.change(
            server,
            limit,
            stale_after=self._pins.ttl,
            numbered=self._numbered,
            saved_prompts=self._saved_prompts,
        )
        return known

    @property
    def overflows(self) -> bool:
        """Whether a server that is full may get a request nevertheless."""
        return self._overflow == "first"

    def await_answers(self) -> None:
        """Hold requests until each server that may take them was asked once (`Asked`)."""
        self._unasked = set(self._backends)

    def place(self, ask: Ask, tried: Collection[str] = ()) -> Lease | Refusal:
        """Choose a server and instance that were not tried yet, and book the lease.

        `tried` names the servers that could not be reached for this request.
        """
        now = self._clock()
        self._estimate(ask)
        if not ask.since:
            ask.since = now
        self.seconds.held = False
        choice = self._recall(ask, tried, now)
        if choice is None:
            if self._is_being_left(ask, tried, now):
                return Refusal.BEING_LEFT
            candidates, choice = self._choose(ask, tried, now)
            if choice is None:
                self._want(ask, now)
                if self.seconds.held and not ask.held_since:
                    ask.held_since = now
                return self._refusal(ask, candidates, tried, now)
        if not ask.works:
            # Its end says nothing about the server: one that cannot count serves all the same.
            return _lease(ask, choice, now, lambda _: None)
        routed = choice.reason != "fallback"
        if routed:
            self.lookups[self._look_up(ask, choice, now)] += 1
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

    def too_small(self, ask: Ask, tokens: int) -> tuple[str, ...]:
        """Name the servers that are known to have a shorter context than a prompt."""
        return tuple(n for n, s in self._backends.items() if not s.holds(ask.names, tokens))

    def is_up(self, ask: Ask) -> bool:
        """Whether any server that may have the model is up, or not known yet."""
        names = self.fleet.candidates(ask.model) if ask.routed else None
        if names is None:
            return True  # the fallback decides
        for name in names:
            backend = self._backends[name]
            if name in self._unasked or name in self._new:
                return True
            up = backend.health.healthy or backend.asleep
            if up and not backend.draining and not backend.lacks(ask.names):
                return True
        return False

    def holding(self, ask: Ask) -> list[str]:
        """Name the servers that are known to have a model, up or down."""
        names = self.fleet.candidates(ask.model) or () if ask.routed else ()
        return [name for name in names if self._backends[name].listed(ask.names)]

    def holds(self, ask: Ask, tried: Collection[str] = ()) -> bool:
        """Whether a request, placed now, would find its prompt in a cache."""
        if ask.prompt is None or ask.prompt.size < WORTH_KEEPING:
            return False
        now = self._clock()
        self._estimate(ask)
        choice = self._recall(ask, tried, now) or self._look(ask, tried, now)[1]
        return choice is not None and choice.reason in ("cached_prompt", "remembered_prompt")

    def consider(self, ask: Ask) -> tuple[Sequence[Backend], Choice | None]:
        """Return who might get a request and who would, and send nothing anywhere."""
        self._estimate(ask)
        self.seconds.held = False
        return self._look(ask, (), self._clock())

    def _look(
        self, ask: Ask, tried: Collection[str], now: float
    ) -> tuple[Sequence[Backend], Choice | None]:
        """Choose, but let nothing come of it."""
        self.seconds.looks = True
        try:
            return self._choose(ask, tried, now)
        finally:
            self.seconds.looks = False

    def _by_seconds(
        self, ask: Ask, prompt: Prompt, room: Sequence[Backend], found: Placement, now: float
    ) -> Weighed | None:
        """Weigh places in seconds, where servers tell enough; see `Seconds.decide`."""
        seconds = self.seconds
        if prompt.size < WORTH_KEEPING or not seconds.applies(room):
            return None
        waiting = self.queued(ask.model)
        if not waiting and found.match in (Match.CONTINUES, Match.CHANGED):
            return None
        holders = self._index.find(prompt)
        if not waiting and found.match is Match.EMPTY and not holders:
            return None
        ask.characters = self.characters_of(ask)
        home = self._home(prompt, holders)
        names = self.fleet.candidates(ask.model) or ()
        return Weighed(seconds.decide(ask, prompt, room, home, waiting, max(1, len(names)), now))

    def cost(self, ask: Ask, backend: Backend, now: float) -> Cost:
        """Tell what a server would cost a request now, in seconds."""
        ask.characters = self.characters_of(ask)
        placement = best_placement(backend, ask, now)
        return cost_here(backend, ask, placement, now, self.queued(ask.model))

    def _loadable(
        self, ask: Ask, ready: Sequence[Backend], room: Sequence[Backend], now: float
    ) -> Sequence[Backend]:
        """Leave out who keeps what is in memory; see `ModelTurns`."""
        for backend in ready:
            if backend.memory.next or backend.must_load(ask.names, ask.context):
                return self._model_turns.loadable(ask, ready, room, self._queued_anywhere, now)
        return room

    def _queued_anywhere(self, model: str) -> int:
        return self.queued(model) + self.queued_elsewhere(model)

    def _want(self, ask: Ask, now: float) -> None:
        """Note that a request waits for what caches hold of its prompt."""
        if self.seconds.hold_max and ask.prompt is not None:
            for holder in self._index.find(ask.prompt):
                if isinstance(holder, PromptCache):
                    holder.want(ask.prompt, now)

    def _may_stay(self, ask: Ask, choice: Choice, now: float) -> bool:
        """Whether a conversation may go on where it is, without a look at who else waits."""
        placement = choice.placement
        if not self.seconds.hold_max or placement is None:
            return True
        if placement.slot is None:
            return self._backends[choice.server].backlog(now) <= NEGLIGIBLE
        if placement.match is not Match.CONTINUES:
            return False  # somebody may be about to come back to the slot
        if not self.queued(ask.model):
            return True
        ask.characters = self.characters_of(ask)
        backend = self._backends[choice.server]
        return backend.prefill is None or not self.seconds.turn_is_over(
            placement.slot, backend, ask, now
        )

    def _home(self, prompt: Prompt, holders: Sequence[Slot | PromptCache]) -> Backend | None:
        """Return the server that holds most of a prompt."""
        best, most = None, 0
        for holder in holders:
            cache = holder.prompt_cache if isinstance(holder, Slot) else holder
            backend = self._backends.get(cache.server)
            if backend is None or not backend.health.healthy:
                continue
            known = holder.holds(prompt)
            if known > most and backend.service_seconds is not None:
                best, most = backend, known
        return best

    def tokens_of(self, ask: Ask) -> int | None:
        """Estimate how many tokens a prompt has; None without one that is followed."""
        if ask.prompt is None:
            return None
        return round(ask.prompt.size / self.characters_of(ask))

    def characters_of(self, ask: Ask) -> float:
        """Return how many characters a token of the model has, as far as servers have counted."""
        return self._characters.get(ask.model, CHARACTERS_PER_TOKEN)

    def counted(self, ask: Ask, tokens: int) -> None:
        """Note how many tokens a server has counted in a prompt."""
        if ask.prompt is None or ask.prompt.size < WORTH_KEEPING or not tokens:
            return
        before = self._characters.get(ask.model)
        now = min(MOST_CHARACTERS, max(LEAST_CHARACTERS, ask.prompt.size / tokens))
        self._note_characters(ask.model, now if before is None else (before + now) / 2)

    def _note_characters(self, model: str, characters: float) -> None:
        if len(self._characters) >= MOST_MODELS and model not in self._characters:
            self._characters.clear()
        self._characters[model] = characters

    def _estimate(self, ask: Ask) -> None:
        """Find out whether a prompt may be too long for any server."""
        least = self._least_context
        if least and ask.prompt is not None and ask.prompt.size > least:
            tokens = self.tokens_of(ask) or 0
            ask.tokens = tokens if tokens > least else 0

    def observe(self, observation: Observation) -> None:
        """Take in what a probe or a request found out about a server."""
        backend = self._backends.get(observation.server)
        if backend is None:
            return  # it was removed
        before, context = backend.status, backend.least_context
        backend.ledger.look_at_hour(self._clock())
        reason = "probe"
        match observation:
            case ProbeFailed(silent=True) if backend.ledger.total:
                return  # a server at work may be late; that nothing listens would be known
            case ProbeFailed(side=side, unreachable=unreachable):
                reason = observation.reason
                backend.faults[side] = observation.error or reason
                backend.health.failed(side, unreachable=unreachable)
                if backend.health.down:
                    backend.went_away()
            case HealthSeen(sample=sample):
                backend.faults.pop("health", None)
                backend.health.add(sample)
            case Introduced():
                self._unasked.discard(observation.server)
                self._new.discard(observation.server)
                self.on_introduced(backend)
            case ModelsSeen(models=models, facts=facts):
                backend.faults.pop("models", None)
                backend.health.answered()
                backend.take_in_facts(facts)
                backend.list_models(None if models is None else backend.server.names_here(models))
            case ContextSeen(instance=instance, tokens=tokens):
                backend.note_context(instance, tokens)
            case SelfReport():
                self._observe_report(backend, observation)
        self._compare_context(backend, context)
        backend.look_at_sleep(self._clock())
        backend.ejection.lapse(self._clock())
        self._note_change(backend, before, reason)
        self.on_room()

    def _observe_report(self, backend: Backend, report: SelfReport) -> None:
        backend.health.answered()
        backend.faults.pop("models", None)
        if backend.server.models:
            report = report.renamed(backend.server.names_here)
        backend.report(report)
        if self._adopt_slots and backend.server.request_max is None and not report.loading:
            backend.ledger.limit = report.slots
        if report.at_work is not None:
            for lease in backend.ledger.stopped(report.at_work, report.asked_at):
                lease.release()

    def _compare_context(self, backend: Backend, before: int) -> None:
        """Look for the shortest context again, if a server's has changed."""
        if backend.least_context != before:
            self._measure_contexts()

    def _measure_contexts(self) -> None:
        known = (backend.least_context for backend in self._backends.values())
        self._least_context = min((context for context in known if context), default=0)

    def name_there(self, lease: Lease) -> str:
        """Name the instance of a lease as its server does."""
        backend = self._backends.get(lease.server)
        return lease.instance if backend is None else backend.server.name_there(lease.instance)

    def drain(self, server: str, *, on: bool, by: str = ADMIN) -> None:
        """Send a server no new requests, or send it some again; those in flight go on.

        It gets some again when everybody who has said no (`by`) says so.
        """
        self._drain(server, by, on=on)
        if self.witness is not None and by == ADMIN:
            self.witness.drained(server, on=on)

    def hear_of_drain(self, server: str, *, on: bool) -> None:
        """Take in what an administrator wants of a server, who has reached another replica."""
        self._drain(server, ADMIN, on=on)

    def _drain(self, server: str, by: str, *, on: bool) -> None:
        backend = self._backends[server]
        before = backend.status
        if on:
            backend.drained_by.add(by)
        else:
            backend.drained_by.discard(by)
        self._note_change(backend, before, by)
        self.on_room()

    def learnt(self, server: str, instance: str, model: str) -> dict[str, object]:
        """Sum up what responses of a server have taught, for `hear_of_learnt`."""
        backend = self._backends[server]
        cache = backend.prompt_cache(instance)
        return {
            "instance": instance,
            "model": model,
            "prefill": backend.prefill,
            "service_seconds": backend.service_seconds,
            "characters": self._characters.get(model),
            "shown": cache.shown,
            "lost_from": None if math.isinf(cache.lost_from) else cache.lost_from,
        }

    def hear_of_learnt(self, server: str, learnt: Mapping[str, Any]) -> None:
        """Take in what another replica has learnt of a server."""
        backend = self._backends[server]
        backend.prefill = learnt["prefill"] or backend.prefill
        backend.service_seconds = learnt["service_seconds"] or backend.service_seconds
        if learnt["characters"] is not None:
            self._note_characters(learnt["model"], learnt["characters"])
        shown, lost_from = learnt["shown"], learnt["lost_from"]
        if shown or lost_from is not None:  # else it knows nothing yet of the memory there
            cache = backend.prompt_cache(learnt["instance"])
            cache.shown = shown
            cache.lost_from = math.inf if lost_from is None else lost_from

    def hear_of_pin(self, client: str, model: str, pin: Pin) -> None:
        """Take in where a client's request went that another replica had."""
        known = self._pins.find(pin.address, client, model, pin.at)
        if pin.server in self._backends and (known is None or known.at < pin.at):
            self._pins.put(client, model, pin)

    def hear_of_ejection(self, server: str, fault: Fault, until: float) -> None:
        """Take in until when another replica leaves a server alone.

        Whoever has seen it complete a request lately believes that more.
        """
        backend, now = self._backends.get(server), self._clock()
        if backend is not None and now - backend.completed_at >= TRUSTED:
            before = backend.status
            backend.ejection.follow(fault, now, until)
            self._note_change(backend, before, fault)

    def hear_of_return(self, server: str) -> None:
        """Take in that another replica has seen a server work that it had left alone."""
        backend = self._backends.get(server)
        if backend is not None:
            before = backend.status
            backend.ejection.restore(self._clock())
            self._note_change(backend, before, "response")
            self.on_room()

    def others_at(self, server: str, count: int, share: int | None = None) -> None:
        """Note how many leases other replicas have at a server, or what our share is."""
        backend = self._backends.get(server)
        if backend is None:
            return  # it was removed
        ledger = backend.ledger
        if count > 0:
            backend.sleep.used_at = self._clock()
        before = ledger.full
        ledger.others, ledger.share = max(0, count), share
        if before != ledger.full:
            self.version += 1
            self.on_room()

    def count_known_others(self, server: str) -> None:
        """Note that other replicas have at least the leases at a server that are known."""
        ledger = self._backends[server].ledger
        if ledger.known_others > ledger.others:
            self.others_at(server, ledger.known_others, ledger.share)

    def pin_model(self, server: str, model: str, *, on: bool) -> None:
        """Have a model stay in a server's memory, or no longer."""
        pins = self._model_turns.pins
        (pins.add if on else pins.discard)((server, model))
        self.on_room()

    def pinned_models(self, server: str) -> list[str]:
        """Name the models that were told to stay in a server's memory."""
        return sorted(model for name, model in self._model_turns.pins if name == server)

    def now(self) -> float:
        """Return the time, in seconds."""
        return self._clock()

    def backends(self) -> Iterator[Backend]:
        """Go through the servers, in configured order, as they stand now."""
        yield from self._backends.values()

    def listing(self, ttl: float) -> list[Backend]:
        """List the servers that are up, or were within the last `ttl` seconds, or sleep."""
        now = self._clock()
        return [
            backend
            for backend in self._backends.values()
            if backend.health.healthy
            or backend.asleep
            or backend.changed is None
            or now - backend.changed.at < ttl
        ]

    def backend(self, server: str) -> Backend:
        """Return one server as it stands now."""
        return self._backends[server]

    def pins(self) -> list[tuple[str, str, Pin]]:
        """List the live pins as (client, model asked for, pin)."""
        return list(self._pins.items(self._clock()))

    def _recall(self, ask: Ask, tried: Collection[str], now: float) -> Choice | None:
        """Find who holds what a request continues; None: all servers must be looked at."""
        names = self.fleet.candidates(ask.model) if ask.routed else None
        if names is None or self._unasked or not ask.works or ask.only or ask.hinted:
            return None
        if self.tier_wait and len({self._backends[name].server.tier for name in names}) > 1:
            return None
        prompt = ask.prompt
        if prompt is None or prompt.size < WORTH_KEEPING:
            pin = self._pins.find(ask.address, ask.holder, ask.model, now)
            return None if pin is None else follow_pin(ask, pin, self._backends, names, now, tried)
        holders = self._index.find(prompt)
        if not holders or len(holders) > MOST_HOLDERS:
            return None
        choice = recall(ask, prompt, holders, self._backends, names, now, tried)
        return choice if choice is not None and self._may_stay(ask, choice, now) else None

    def _is_being_left(self, ask: Ask, tried: Collection[str], now: float) -> bool:
        """Whether a full server is about to have room for what a request continues there."""
        names = self.fleet.candidates(ask.model) if ask.routed else None
        if names is None or ask.prompt is None:
            return False
        for holder in self._index.find(ask.prompt):
            if isinstance(holder, Slot) and holder.being_left:
                name = holder.prompt_cache.server
                if name not in names:
                    continue
                backend = self._backends[name]
                reachable = name not in tried and backend.accepting
                if reachable and holder.placement(ask.prompt, now, backend.elsewhere) is not None:
                    return backend.ledger.full
        return False

    def _choose(
        self, ask: Ask, tried: Collection[str], now: float
    ) -> tuple[list[Backend], Choice | None]:
        """Return who might get a request, and who gets it."""
        names = self.fleet.candidates(ask.model) if ask.routed else None
        if names is None:
            return self._choose_fallback(ask, tried, now)
        backends = self._backends
        if ask.only in names:
            names = (ask.only,)
        candidates = [backends[name] for name in names]
        if self._unasked and not self._unasked.isdisjoint(names):
            return candidates, None
        if self._new and not self._new.isdisjoint(names):
            known = [s for s in candidates if s.server.name not in self._new]
            if any(s.listed(ask.names) for s in known):
                return candidates, self._choose_among(ask, known, tried, now)
            return candidates, None
        return candidates, self._choose_among(ask, candidates, tried, now)

    def _choose_among(
        self, ask: Ask, candidates: Sequence[Backend], tried: Collection[str], now: float
    ) -> Choice | None:
        pin = self._pins.find(ask.address, ask.holder, ask.model, now)
        if not ask.works:
            return visit(ask, candidates, pin, now, tried)
        if self.tier_wait and now - (ask.since or now) < self.tier_wait:
            candidates = lowest_tier(ask, candidates, now, tried)
        if ask.hinted:
            candidates = self._liked(ask, candidates, tried, now)
        loadable = self._loadable if self._model_turns.matters else None
        choice = choose(ask, candidates, pin, now, tried, self.queued, self._by_seconds, loadable)
        if choice is None and self._overflow == "first":
            for first in available(ask, candidates, now, tried, full=True)[:1]:
                choice = Choice(first.server.name, first.served_name(ask.names), "overflow")
        return choice

    def _liked(
        self, ask: Ask, candidates: Sequence[Backend], tried: Collection[str], now: float
    ) -> Sequence[Backend]:
        """Keep the servers that a request would like, unless another costs far less."""
        takers = available(ask, candidates, now, tried)
        costs = {s.server.name: self.cost(ask, s, now) for s in takers}
        known = all(cost.read is not None for cost in costs.values())
        seconds = {name: c.load + (c.read or 0.0 if known else 0.0) for name, c in costs.items()}
        liked = [s for s in takers if ask.likes(s.server.name)]
        if not liked:
            return candidates
        least = min(seconds.values())
        return [s for s in liked if seconds[s.server.name] <= least + HINT] or candidates

    def _refusal(
        self, ask: Ask, candidates: Sequence[Backend], tried: Collection[str], now: float
    ) -> Refusal:
        """Return why nobody was chosen; where it pays, a server is woken."""
        if self.seconds.held:
            return Refusal.HELD
        unasked = self._unasked | self._new
        if ask.routed and any(s.server.name in unasked for s in candidates):
            return Refusal.UNASKED
        if any(s.asleep for s in candidates) and self._wake(ask, candidates, tried, now):
            return Refusal.WAKING
        if able(ask, candidates, tried):
            return Refusal.FULL
        if any(s.listed(ask.names) for s in candidates):
            return Refusal.DOWN
        return Refusal.UNKNOWN

    def _wake(
        self, ask: Ask, candidates: Sequence[Backend], tried: Collection[str], now: float
    ) -> bool:
        """Wake a server where that is sooner than all others; tell whether one is being woken."""
        asleep = [s for s in able(ask, candidates, tried) if s.asleep and not s.draining]
        waking = [s for s in asleep if s.sleep.state == "waking"]
        settled = [s for s in asleep if s.sleep.state == "settled"]
        awake = available(ask, candidates, now, tried, full=True)
        costs = {s.server.name: self.cost(ask, s, now) for s in (*awake, *asleep)}
        seconds = {name: cost.wait + cost.load for name, cost in costs.items()}
        waits = [seconds[s.server.name] for s in (*awake, *waking)]
        best = min(settled, key=lambda s: seconds[s.server.name], default=None)
        if best is not None and seconds[best.server.name] < min(waits, default=math.inf):
            best.sleep.begin(now)
            self._note_change(best, "asleep", "request")
            self.on_wake(best)
            return True
        return bool(waking)

    def settle(self, backend: Backend, state: State, reason: str) -> None:
        """Note what is known of a server by whoever wakes it and has it sleep."""
        before = backend.status
        backend.sleep.state = state
        self._note_change(backend, before, reason)
        self.on_room()

    def _choose_fallback(
        self, ask: Ask, tried: Collection[str], now: float
    ) -> tuple[list[Backend], Choice | None]:
        name = self.fleet.fallback
        if name is None or name in tried:
            return [], None
        backend = self._backends[name]
        full = self._overflow == "first"
        takes = available(ask, [backend], now, full=full) if ask.works else backend.accepting
        if not takes:
            return [backend], None
        choice = Choice(name, backend.served_name(ask.names), "fallback")
        return [backend], choice

    def _book(self, ask: Ask, choice: Choice, now: float, *, pinned: bool) -> Lease:
        backend = self._backends[choice.server]
        self._retries.earn()
        ledger, placement = backend.ledger, choice.placement
        occupancy = change = files = None
        expected = NOTHING
        if placement is not None and ask.prompt is not None:
            files = self._files(ask, ask.prompt, backend, placement, now)
            expected = self._expect(ask, ask.prompt, backend, placement, now)
            change = placement.change(ask.prompt)
            backend.keep(choice.instance, placement.prompt_cache)
            occupancy = self._occupy(placement, ask.prompt, max(0.0, ask.since) or now, now)

        def let_go(lease: Lease) -> None:
            ledger.strike(lease)
            self.version += 1
            now = self._clock()
            if occupancy is not None:
                occupancy.end(now, worked=lease.worked)
            backend.saved.give_back(lease.files)
            if self._backends.get(backend.server.name) is not backend:
                backend.went_away()  # it was removed: nobody will look into its caches
                self.on_room()
                return
            if pinned:
                self._pin(ask, choice, now)
            backend.note_end(lease, now)
            self._judge(backend, lease, now)
            if lease.reuse is not None:
                self._learn(backend, lease, lease.reuse, ask, now)
            self.on_room()

        lease = _lease(ask, choice, now, let_go)
        lease.slot = backend.name_slot(occupancy.slot if occupancy and ask.takes_slot else None)
        if occupancy is not None:
            lease.occupancy = occupancy
            lease.prediction = occupancy.prediction
        lease.files = files
        lease.change = change
        lease.expected = expected.first_token
        lease.considered = choice.considered
        lease.alone = not ledger.total or backend.tells_slots
        backend.reads(expected.read, now)
        if ask.held_since:
            self._end_hold(lease, ask, backend, placement, now)
        ledger.enter(lease)
        self.version += 1
        backend.note(choice.instance, now, ask.context)
        backend.sleep.used_at = now
        if not backend.ejection.quiet:
            backend.ejection.booked(lease, now)
        self.decisions.append(lease)
        return lease

    def _files(
        self, ask: Ask, prompt: Prompt, backend: Backend, placement: Placement, now: float
    ) -> SlotFiles | None:
        """Tell what is to be saved of a slot, or restored into it, before it gets a prompt."""
        if placement.match is Match.CONTINUES or not backend.saves_slots:
            return None
        ask.characters = self.characters_of(ask)
        return slot_files.files_for(ask, prompt, backend, placement, now)

    def note_saved(self, lease: Lease, seconds: float | None) -> None:
        """Note how long it took to save what a slot held; None: it was not saved."""
        backend = self._backends.get(lease.server)
        if backend is not None:
            slot_files.note_saved(backend, lease, seconds, self._clock())

    def note_restored(self, lease: Lease, seconds: float | None) -> None:
        """Note how long it took to restore what a slot shall hold; None: it was not restored."""
        backend = self._backends.get(lease.server)
        if backend is not None:
            slot_files.note_restored(backend, lease, seconds)

    def _expect(
        self, ask: Ask, prompt: Prompt, backend: Backend, placement: Placement, now: float
    ) -> Cost:
        """Tell how many seconds the first token will take, where enough is known."""
        if backend.prefill is None or prompt.size < WORTH_KEEPING:
            return NOTHING
        ask.characters = self.characters_of(ask)
        return cost_here(backend, ask, placement, now)

    def _end_hold(
        self, lease: Lease, ask: Ask, backend: Backend, placement: Placement | None, now: float
    ) -> None:
        """Count how long a request waited beside held places, and whose it took."""
        tally = self.seconds.tally
        lease.held = now - ask.held_since
        tally.held += lease.held
        if backend.must_load(ask.names, ask.context):
            tally.turns["model"] += 1
        elif placement is not None and placement.match is Match.EVICTS:
            tally.turns["slot"] += 1

    def _occupy(
        self, placement: Placement, prompt: Prompt, asked_at: float, now: float
    ) -> Occupancy:
        """Give a prompt its place, and learn how long its conversation has paused."""
        slot = placement.slot
        if slot is not None:
            if placement.match is Match.CONTINUES and not slot.busy:
                self.seconds.note_pause(max(0.0, asked_at - slot.used_at))
                self.seconds.tally.saved += slot.held_for
            slot.held_for = 0.0
        return placement.prompt_cache.take(placement, prompt, now, asked_at)

    def _learn(
        self, backend: Backend, lease: Lease, reuse: CacheReuse, ask: Ask, now: float
    ) -> None:
        """Learn from what a response has told of the work that it was."""
        self.counted(ask, reuse.prompt)
        self._observe_reuse(backend, lease, reuse)
        if lease.reading_seconds is not None and self.seconds.hold_max:
            took = now - lease.since - lease.reading_seconds
            self.seconds.note_writing(ask.holder, max(0.0, took))

    def _measure(self, backend: Backend, lease: Lease, report: CacheReuse) -> int:
        """Learn how fast a server reads; return how many tokens it had to."""
        read = report.prompt - (report.cached or 0)
        told = lease.alone or backend.prefill is None
        seconds = report.seconds and max(0.0, report.seconds - lease.load)
        if told and seconds and read >= MEASURABLE:
            backend.read_prompt(read, seconds)
        speed = backend.prefill
        lease.reading_seconds = seconds or (speed and read / speed)
        if report.seconds is not None:
            lease.measured = report.seconds
            if lease.expected is not None:
                self.seconds.tally.compare(lease.server, lease.expected, report.seconds)
        return read

    def _observe_reuse(self, backend: Backend, lease: Lease, report: CacheReuse) -> None:
        """Hold what a server's cache was believed to hold against what a response tells."""
        read = self._measure(backend, lease, report)
        if report.cached is None or not report.prompt:
            return
        kind = None if backend.self_report is None else backend.self_report.kind
        if not report.cached and kind is not None and kind.denies_cached_tokens:
            return
        name, prediction = backend.server.name, lease.prediction
        self.tokens[name, "cache"] += report.cached
        self.tokens[name, "work"] += read
        if prediction is None:
            return
        expected = HELD * (prediction.share or prediction.possible) * report.prompt
        if expected and kind is not None and kind.cache_block:
            expected -= kind.cache_block
            if expected <= 0:
                return  # so little says nothing
        held = 0 < expected <= report.cached
        if prediction.share:
            result: Forecast = "hit" if held else "miss"
            if not held and lease.change is None and lease.occupancy is not None:
                lease.change = lease.occupancy.dropped(report.cached / report.prompt)
        else:
            result = "surprise" if held else "none"
        self.forecasts[name, result] += 1
        if prediction.rank is not None:
            backend.prompt_cache(lease.instance).correct(prediction.rank, held=held)

    def _judge(self, backend: Backend, lease: Lease, now: float) -> None:
        """Judge a server by how a request has ended there."""
        ejection = backend.ejection
        if lease.succeeded:
            backend.complete(now - lease.since, now)
            if ejection.quiet and backend.health.healthy and not backend.health.failing:
                return
        before = backend.status
        reason = "response"
        if lease.succeeded:
            if ejection.completed(lease, now) and self.witness is not None:
                self.witness.returned(lease.server)
            backend.health.served()
            backend.faults.pop("models", None)
        elif lease.fault is None:
            ejection.given_up(lease)
        elif ejection.failed(lease, lease.fault, now, self._chance()):
            self.ejections[lease.server, lease.fault] += 1
            if self.witness is not None and ejection.until is not None:
                self.witness.ejected(lease.server, lease.fault, ejection.until)
        if ejection.ejected and ejection.reason is not None:
            reason = ejection.reason
        self._note_change(backend, before, reason)

    def _note_change(self, backend: Backend, before: Status, reason: str) -> None:
        status = backend.status
        if status != before:
            backend.entered[status] += 1
            backend.changed = Change(status, reason, self._clock())
            self.on_change(backend, before)

    def _look_up(self, ask: Ask, choice: Choice, now: float) -> Lookup:
        """Pin a client to where its request goes, and return what was known of it before."""
        pin = self._pins.find(ask.address, ask.holder, ask.model, now)
        if pin is not None and pin.instance == choice.instance and pin.server == choice.server:
            pin.at = now
            return "hit"
        known: Lookup = "unusable"
        if pin is None:
            past = self._pins.remembers(ask.address, ask.holder, ask.model)
            known = "expired" if past else "miss"
        self._pin(ask, choice, now)
        return known

    def _pin(self, ask: Ask, choice: Choice, now: float) -> None:
        pin = Pin(choice.server, choice.instance, ask.address, now)
        self._pins.put(ask.holder, ask.model, pin)
        if self.witness is not None:
            self.witness.pinned(ask.holder, ask.model, pin)


def _lease(ask: Ask, choice: Choice, now: float, let_go: Callable[[Lease], None]) -> Lease:
    return Lease(
        choice.server,
        choice.instance,
        model=ask.model,
        client=ask.client,
        reason=choice.reason,
        since=now,
        let_go=let_go,
    )
