"""Which server, instance and slot take a request: the rule, and nothing else."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from app.routing.backend import Backend
from app.routing.ledger import Considered
from app.routing.model_memory import Readiness
from app.routing.pins import Pin
from app.routing.prompt import Prompt
from app.routing.prompt_cache import WORTH_KEEPING, Match, Placement, PromptCache, Slot

Reason = Literal[
    "cached_prompt",
    "remembered_prompt",
    "changed_prompt",
    "empty_slot",
    "evicted_prompt",
    "sticky",
    "free_instance",
    "idle",
    "least_loaded",
    "fallback",
    "last_resort",
    "overflow",
    "no_place",
]

_REASONS: Final[dict[Match, Reason]] = {
    Match.CONTINUES: "cached_prompt",
    Match.REMEMBERED: "remembered_prompt",
    Match.CHANGED: "changed_prompt",
    Match.EMPTY: "empty_slot",
    Match.EVICTS: "evicted_prompt",
}


@dataclass(init=False)
class Ask:
    """What a request wants.

    `names` are the names that a server may know the model by, the preferred one first: all
    of them mean the `model` that was asked for. `client` is who asks: the user's name where
    it is known, else the `address`. Without a `prompt` the `session` decides, as the client calls
    it, or the client alone. What is not `routed` goes to the fallback, whatever its model. What
    cannot say which slot is its own takes any. What makes no model work (`works`) takes no place.
    """

    model: str
    names: tuple[str, ...]
    client: str
    address: str
    prompt: Prompt | None
    routed: bool
    takes_slot: bool
    works: bool
    session: str

    def __init__(
        self,
        model: str,
        names: tuple[str, ...],
        client: str,
        address: str,
        prompt: Prompt | None = None,
        *,
        routed: bool = True,
        takes_slot: bool = True,
        works: bool = True,
        session: str = "",
    ) -> None:
        self.model = model
        self.names = names
        self.client = client
        self.address = address
        self.prompt = prompt
        self.routed = routed
        self.takes_slot = takes_slot
        self.works = works
        self.session = session
        # No fields: what the prompt may have, where it may be too long; since when it waits; the
        # server that it must go to, as that has what it continues; characters per token; since
        # when it waits beside places that are held; servers that it would like, or would not; how
        # long it wants the model's context, if it says.
        self.tokens = 0
        self.since = 0.0
        self.only = ""
        self.characters = 4.0
        self.held_since = 0.0
        self.prefer: tuple[str, ...] = ()
        self.avoid: tuple[str, ...] = ()
        self.context = 0

    @property
    def hinted(self) -> bool:
        """Whether it would like some servers better than others."""
        return bool(self.prefer or self.avoid)

    def likes(self, server: str) -> bool:
        """Whether a server is one that it would like."""
        return server in self.prefer if self.prefer else server not in self.avoid

    @property
    def holder(self) -> str:
        """Whose the last request was that had the same prompt's beginning, most likely."""
        return self.session or self.client


@dataclass(init=False)
class Choice:
    """Where a request goes, and why; `placement` tells the slot where slots are followed."""

    server: str
    instance: str
    reason: Reason
    placement: Placement | None

    def __init__(
        self, server: str, instance: str, reason: Reason, placement: Placement | None = None
    ) -> None:
        self.server = server
        self.instance = instance
        self.reason = reason
        self.placement = placement
        self.considered: Sequence[Considered] = ()
        """The servers among which seconds decided."""


class Weighed(NamedTuple):
    """What came of weighing all places: one of them, or that it is better to wait."""

    choice: Choice | None


Weigh = Callable[[Ask, Prompt, Sequence[Backend], Placement, float], Weighed | None]
"""Weighs the places that servers with room have for a prompt against the one that was found; None
where too little is known, or where there is nothing to weigh."""


Loadable = Callable[[Ask, Sequence[Backend], Sequence[Backend], float], Sequence[Backend]]
"""Leaves out the servers with room that keep what they have in memory for now; it is told of all
that may take the request, too."""


def able(ask: Ask, candidates: Sequence[Backend], tried: Collection[str] = ()) -> Sequence[Backend]:
    """List the candidates that may have the model, without those that were tried.

    Where one is known to have it, up or down, those that are known to lack it are out, so
    that no other model answers in its place. Where none is known to have it, those that may
    have it come first, and where all lack it, the pattern's word is taken, as far as it names
    them: a server that is in no settings gets nothing but what it lists.
    """
    found = []
    known = False
    for backend in candidates:
        if backend.models is None:
            if not backend.server.listed_only:
                found.append(backend)
        elif backend.listed(ask.names):
            known = True
            found.append(backend)
    left = [s for s in found if s.server.name not in tried] if tried else found
    if left or known:
        return left
    return [s for s in candidates if s.server.name not in tried and not s.server.listed_only]


def available(
    ask: Ask,
    candidates: Sequence[Backend],
    now: float,
    tried: Collection[str] = (),
    *,
    full: bool = False,
) -> list[Backend]:
    """List the candidates that may take a request now; `full` includes those at their limit.

    Of those that may have the model, unhealthy ones are out unless all are; ejected ones,
    unless that would be more than half; and whatever drains, loads its model or is full. So are
    those whose contexts are too short for the prompt, unless all are.
    """
    may = able(ask, candidates, tried)
    healthy = [s for s in may if s.health.healthy and not s.draining]
    found = [s for s in healthy or may if s.accepting]
    if ask.tokens:
        found = [s for s in found if s.holds(ask.names, ask.tokens)] or found
    if len(found) > 1:
        found = _not_ejected(found, now)
    return found if full else [s for s in found if not s.ledger.full]


def lowest_tier(
    ask: Ask, candidates: Sequence[Backend], now: float, tried: Collection[str] = ()
) -> Sequence[Backend]:
    """Keep the servers of the first tier that has any which may take a request, full or not."""
    may = available(ask, candidates, now, tried, full=True)
    tier = min((s.server.tier for s in may), default=0)
    return [s for s in candidates if s.server.tier <= tier]


def recall(
    ask: Ask,
    prompt: Prompt,
    holders: Sequence[Slot | PromptCache],
    backends: Mapping[str, Backend],
    candidates: Sequence[str],
    now: float,
    tried: Collection[str] = (),
) -> Choice | None:
    """Find what holds the prompt that this one continues, among all that may.

    It picks what `choose` would, without a look at all servers; None where that takes one.
    """
    best: tuple[tuple[float, ...], Choice] | None = None
    for holder in holders:
        prompt_cache = holder.prompt_cache if isinstance(holder, Slot) else holder
        name = prompt_cache.server
        if name in tried or name not in candidates:
            continue
        backend = backends[name]
        if not _surely_able(backend, ask):
            return None
        if not (backend.health.healthy and backend.accepting) or backend.ledger.full:
            continue
        placement = holder.placement(prompt, now, backend.elsewhere)
        if placement is None or placement.match > Match.REMEMBERED:
            continue
        where = _where(prompt_cache, backend, ask)
        if where is not None:
            number, instance = where
            slot = -1 if placement.slot is None else placement.slot.number
            load, order = backend.ledger.load, candidates.index(name)
            rank = placement.match, -placement.known, load, order, number, slot
            if best is None or rank < best[0]:
                best = rank, choice_of(backend, instance, placement)
    return best and best[1]


def _where(prompt_cache: PromptCache, backend: Backend, ask: Ask) -> tuple[int, str] | None:
    """Find the instance whose caches these are, and its place among those of the model."""
    instances = backend.offered(ask.names)
    for number, instance in enumerate(instances):
        if backend.prompt_cache(instance, len(instances)) is prompt_cache:
            return number, instance
    return None


def follow_pin(
    ask: Ask,
    pin: Pin,
    backends: Mapping[str, Backend],
    candidates: Sequence[str],
    now: float,
    tried: Collection[str] = (),
) -> Choice | None:
    """Send a request without a prompt to where its client's last one went.

    As `recall` does, it leaves to `choose` what takes a look at all servers.
    """
    if pin.server in tried or pin.server not in candidates:
        return None
    backend = backends[pin.server]
    open_ = backend.health.healthy and backend.accepting and not backend.ledger.full
    if not open_ or not _surely_able(backend, ask):
        return None
    choice = _where_it_was(pin, ask, [backend], now)
    return None if choice is None or _evicts(choice.placement) else choice


def _surely_able(backend: Backend, ask: Ask) -> bool:
    """Whether a server may take the request, however the others stand."""
    listed = backend.listed(ask.names)
    if ask.tokens and not backend.holds(ask.names, ask.tokens):
        return False
    return bool(listed) and backend.ejection.quiet and not backend.must_load(ask.names, ask.context)


def choose(
    ask: Ask,
    candidates: Sequence[Backend],
    pin: Pin | None,
    now: float,
    tried: Collection[str] = (),
    ahead: Callable[[str], int] = lambda _: 0,
    weigh: Weigh | None = None,
    loadable: Loadable | None = None,
) -> Choice | None:
    """Pick a server, instance and slot for a request; None when all that may take it are full.

    Among the `available` ones the prompt decides: where it is held in a cache, else where
    nothing is lost. What has no prompt, or one too short to matter, goes where the client's
    last request went, unless its model is gone from there and in memory elsewhere; else, in
    the order of the candidates, to a server with a free instance; to an idle server; to the
    least loaded one. Of the `tried` none is taken; `ahead` tells how many wait for the same
    model already.
    """
    ready = available(ask, candidates, now, tried, full=True)
    room: Sequence[Backend] = [s for s in ready if not s.ledger.full]
    if loadable is not None:
        room = loadable(ask, ready, room, now)
    if not room or (len(room) < len(ready) and _worth_waiting(ask, ready, room, now, ahead)):
        return None
    if len(room) > 1:
        room = [s for s in room if s.ejection.quiet or not _spared(s, ask, now)] or room
    choice = _among(ask, room, pin, now)
    prompt, placement = ask.prompt, choice.placement
    if weigh is not None and placement is not None and prompt is not None:
        weighed = weigh(ask, prompt, room, placement, now)
        if weighed is not None:
            return weighed.choice
    if not room[0].health.healthy:
        choice.reason = "last_resort"
    return choice


def visit(
    ask: Ask,
    candidates: Sequence[Backend],
    pin: Pin | None,
    now: float,
    tried: Collection[str] = (),
) -> Choice | None:
    """Pick a server for a request that makes no model work, full or not.

    A server that has the model in memory comes first, the client's own before others.
    """
    ready = available(ask, candidates, now, tried, full=True)
    if not ready:
        return None
    own = "" if pin is None else pin.server
    best = min(ready, key=lambda s: (s.must_load(ask.names, ask.context), s.server.name != own))
    return Choice(best.server.name, best.offered(ask.names)[0], "no_place")


def _not_ejected(backends: list[Backend], now: float) -> list[Backend]:
    """Leave out who is ejected, the longest first, but never more than half, nor the last."""
    barred = [s for s in backends if not s.ejection.quiet and s.ejection.bars(now)]
    if not barred:
        return backends
    barred.sort(key=lambda s: s.ejection.until or 0.0, reverse=True)
    out = barred[: len(backends) // 2]
    return [s for s in backends if s not in out]


def _spared(backend: Backend, ask: Ask, now: float) -> bool:
    """Whether others with room go first, unless the model is just being loaded there."""
    slows = backend.ejection.slows(backend.ledger.total, now)
    return slows and backend.readiness(ask.names, ask.context) is not Readiness.LOADING


def _worth_waiting(
    ask: Ask,
    ready: Sequence[Backend],
    room: Sequence[Backend],
    now: float,
    ahead: Callable[[str], int],
) -> bool:
    """Whether a full server that has the model will be free before another has loaded it."""
    if not all(s.must_load(ask.names, ask.context) for s in room):
        return False
    full = [s for s in ready if s.ledger.full and not s.must_load(ask.names, ask.context)]
    if not full:
        return False
    before = ahead(ask.model)
    waits = [s.expected_wait(now, before, ask.names) for s in full]
    return min(waits) < min(s.load_seconds(ask.names) for s in room)


def _among(ask: Ask, room: Sequence[Backend], pin: Pin | None, now: float) -> Choice:
    """Pick among servers that all may take the request."""
    if (
        ask.prompt is not None
        and ask.prompt.size >= WORTH_KEEPING
        and (choice := _by_prompt(ask, ask.prompt, room, now))
    ):
        return choice
    if ask.prompt is not None and len(room) > 1:
        room = _sparing(ask, room, now)
    if pin is not None and (choice := _where_it_was(pin, ask, room, now)):
        return choice
    preferred = _preferred(ask, room)
    return (
        _free_instance(ask, preferred, now)
        or next((_least_busy(s, ask, "idle", now) for s in preferred if _idle(s)), None)
        or _least_busy(min(preferred, key=lambda s: s.ledger.load), ask, "least_loaded", now)
    )


def choice_of(backend: Backend, instance: str, placement: Placement) -> Choice:
    """Return the choice of a place that goes by the prompt."""
    return Choice(backend.server.name, instance, _REASONS[placement.match], placement)


def _evicts(placement: Placement | None) -> bool:
    return placement is not None and placement.match is Match.EVICTS


def _sparing(ask: Ask, room: Sequence[Backend], now: float) -> Sequence[Backend]:
    """Leave out servers where a short prompt would evict a conversation, if others need not."""
    names = ask.names
    sparing = [
        s for s in room if not all(_evicts(_slot(s, at, ask, now)) for at in s.offered(names))
    ]
    tier = min(s.server.tier for s in room)
    ready = any(s.server.tier == tier and not s.must_load(names, ask.context) for s in sparing)
    return sparing if ready else room


def _by_prompt(ask: Ask, prompt: Prompt, room: Sequence[Backend], now: float) -> Choice | None:
    """Find the place that saves the most work, or costs others the least."""
    best: tuple[tuple[float, ...], Choice] | None = None
    alone = len(room) == 1
    for order, backend in enumerate(room):
        instances = backend.offered(ask.names)
        for instance in instances:
            prompt_cache = backend.prompt_cache(instance, len(instances))
            placement = prompt_cache.placement(prompt, now, backend.elsewhere)
            if placement is None:
                continue
            if alone and len(instances) == 1:
                return choice_of(backend, instance, placement)
            # Where nothing tells of slots, all but an idle server may be out of them.
            crowded = not prompt_cache.slots and backend.ledger.load > 0
            if placement.match <= Match.REMEMBERED:
                load = backend.ledger.load
                rank: tuple[float, ...] = (0, placement.match, -placement.known, load, order)
            else:
                rank = (
                    1,
                    backend.server.tier,
                    *effort_to_load(backend, ask),
                    Match.EVICTS if crowded else placement.match,
                    crowded,
                    not placement.continued,
                    placement.worth,
                    backend.ledger.load,
                    not backend.health.idle,
                    prompt_cache.occupied(now) / (len(prompt_cache.slots) or 1),
                    order,
                )
            if best is None or rank < best[0]:
                best = rank, choice_of(backend, instance, placement)
    return best and best[1]


def _where_it_was(pin: Pin, ask: Ask, room: Sequence[Backend], now: float) -> Choice | None:
    for s in room:
        if (
            s.server.name == pin.server
            and not s.lacks(ask.names)
            and pin.instance in s.offered(ask.names)
            and not (s.must_load(ask.names, ask.context) and s not in _first_to_load(ask, room))
        ):
            return _at(s, pin.instance, ask, "sticky", now)
    return None


def _preferred(ask: Ask, room: Sequence[Backend]) -> Sequence[Backend]:
    """Keep the servers of the first tier that has room; of these, those with the least to load."""
    if len(room) == 1:
        return room
    tier = min(s.server.tier for s in room)
    return _first_to_load(ask, [s for s in room if s.server.tier == tier])


def _first_to_load(ask: Ask, room: Sequence[Backend]) -> Sequence[Backend]:
    """Keep the servers where the least must happen before the model is in memory."""
    efforts = [effort_to_load(s, ask) for s in room]
    least = min(efforts)
    return [s for s, effort in zip(room, efforts, strict=True) if effort == least]


def effort_to_load(backend: Backend, ask: Ask) -> tuple[int, float]:
    """Rank a server by what must happen first; who unloads, by how long that was not used."""
    readiness = backend.readiness(ask.names, ask.context)
    return readiness, backend.memory.unused_since() if readiness is Readiness.SWAP else 0.0


def _free_instance(ask: Ask, room: Sequence[Backend], now: float) -> Choice | None:
    for backend in room:
        if backend.ledger.foreign:
            continue  # nobody knows on which instance
        for instance in backend.offered(ask.names):
            if not backend.ledger.on(instance):
                return _at(backend, instance, ask, "free_instance", now)
    return None


def _idle(backend: Backend) -> bool:
    """Whether a GPU is known to be idle; where nobody tells, only who has nothing to do is."""
    ledger, window = backend.ledger, backend.health
    return window.idle and not ledger.foreign and (window.known or not ledger.total)


def _least_busy(backend: Backend, ask: Ask, reason: Reason, now: float) -> Choice:
    instance = min(backend.offered(ask.names), key=backend.ledger.on)
    return _at(backend, instance, ask, reason, now)


def _at(backend: Backend, instance: str, ask: Ask, reason: Reason, now: float) -> Choice:
    """Complete a choice by the slot that fits best."""
    return Choice(backend.server.name, instance, reason, _slot(backend, instance, ask, now))


def _slot(backend: Backend, instance: str, ask: Ask, now: float) -> Placement | None:
    """Find the slot that fits best; None where none is free, or slots are not followed."""
    known = backend.self_report is not None
    if ask.prompt is None or not (known or ask.prompt.size >= WORTH_KEEPING):
        return None
    prompt_cache = backend.prompt_cache(instance, len(backend.offered(ask.names)))
    return prompt_cache.placement(ask.prompt, now, backend.elsewhere)
