"""Which server, instance and slot take a request: the rule, and nothing else."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from app.routing.prompt import Prompt
from app.routing.residency import WORTH_KEEPING, Fit, Match, Residency
from app.routing.standing import Readiness, Standing
from app.routing.sticky import Pin

Reason = Literal[
    "cached_prompt",
    "remembered_prompt",
    "empty_slot",
    "evicted_prompt",
    "sticky",
    "free_instance",
    "idle",
    "least_loaded",
    "fallback",
    "last_resort",
    "overflow",
]

_REASONS: dict[Match, Reason] = {
    Match.CONTINUES: "cached_prompt",
    Match.REMEMBERED: "remembered_prompt",
    Match.EMPTY: "empty_slot",
    Match.EVICTS: "evicted_prompt",
}


class Ask(NamedTuple):
    """What a request wants.

    `names` are the names that a server may know the model by, the preferred one first: all
    of them mean the `model` that was asked for. `client` is who asks: the user's name where
    it is known, else the `address`. Without a `prompt` the client alone decides. What is not
    `routed` goes to the fallback, whatever its model. What cannot say which slot is its own
    takes any.
    """

    model: str
    names: tuple[str, ...]
    client: str
    address: str
    prompt: Prompt | None = None
    routed: bool = True
    takes_slot: bool = True


class Choice(NamedTuple):
    """Where a request goes, and why; `fit` tells the slot where slots are followed."""

    server: str
    instance: str
    reason: Reason
    fit: Fit | None = None


def able(
    ask: Ask, candidates: Sequence[Standing], tried: Collection[str] = ()
) -> Sequence[Standing]:
    """List the candidates that may have the model, without those that were tried.

    Where one is known to have it, up or down, those that are known to lack it are out, so
    that no other model answers in its place. Where none is known to have it, those that may
    have it come first, and where all lack it, the pattern's word is taken.
    """
    found = []
    known = False
    for standing in candidates:
        if standing.models is None:
            found.append(standing)
        elif standing.listed(ask.names):
            known = True
            found.append(standing)
    left = [s for s in found if s.server.name not in tried] if tried else found
    if left or known:
        return left
    return [s for s in candidates if s.server.name not in tried]


def available(
    ask: Ask,
    candidates: Sequence[Standing],
    now: float,
    tried: Collection[str] = (),
    *,
    full: bool = False,
) -> list[Standing]:
    """List the candidates that may take a request now; `full` includes those at their limit.

    Of those that may have the model, unhealthy ones are out unless all are; ejected ones,
    unless that would be more than half; and whatever drains, loads its model or is full.
    """
    may = able(ask, candidates, tried)
    healthy = [s for s in may if s.window.valid and not s.draining]
    found = [s for s in healthy or may if s.willing]
    if len(found) > 1:
        found = _not_ejected(found, now)
    return found if full else [s for s in found if not s.ledger.full]


def recall(
    ask: Ask,
    prompt: Prompt,
    residencies: Iterable[Residency],
    standings: Mapping[str, Standing],
    candidates: Sequence[str],
    now: float,
    tried: Collection[str] = (),
) -> Choice | None:
    """Find the cache that holds what a prompt continues, among the only ones that may.

    It picks what `choose` would, without a look at all servers; None where that takes one.
    """
    best: tuple[tuple[float, ...], Choice] | None = None
    for residency in residencies:
        name = residency.server
        if name in tried or name not in candidates:
            continue
        standing = standings[name]
        if not _surely_able(standing, ask):
            return None
        if not (standing.window.valid and standing.willing) or standing.ledger.full:
            continue
        instances = standing.offered(ask.names)
        for number, instance in enumerate(instances):
            if standing.residency(instance, len(instances)) is not residency:
                continue
            fit = residency.fit(prompt, now, standing.elsewhere)
            if fit is not None and fit.match <= Match.REMEMBERED:
                order = candidates.index(name)
                rank = fit.match, -fit.known, standing.ledger.load, order, number
                if best is None or rank < best[0]:
                    best = rank, Choice(name, instance, _REASONS[fit.match], fit)
            break
    return best and best[1]


def stay(
    ask: Ask,
    pin: Pin,
    standings: Mapping[str, Standing],
    candidates: Sequence[str],
    now: float,
    tried: Collection[str] = (),
) -> Choice | None:
    """Send a request without a prompt to where its client's last one went.

    As `recall` does, it leaves to `choose` what takes a look at all servers.
    """
    if pin.server in tried or pin.server not in candidates:
        return None
    standing = standings[pin.server]
    open_ = standing.window.valid and standing.willing and not standing.ledger.full
    if not open_ or not _surely_able(standing, ask):
        return None
    return _where_it_was(pin, ask, [standing], now)


def _surely_able(standing: Standing, ask: Ask) -> bool:
    """Whether a server may take the request, however the others stand."""
    listed = standing.listed(ask.names)
    return bool(listed) and standing.ejection.quiet and not standing.must_load(ask.names)


def choose(
    ask: Ask,
    candidates: Sequence[Standing],
    pin: Pin | None,
    now: float,
    tried: Collection[str] = (),
    ahead: Callable[[str], int] = lambda _: 0,
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
    room = [s for s in ready if not s.ledger.full]
    if not room or (len(room) < len(ready) and _worth_waiting(ask, ready, room, now, ahead)):
        return None
    if len(room) > 1:
        room = [s for s in room if s.ejection.quiet or not _spared(s, ask, now)] or room
    choice = _among(ask, room, pin, now)
    return choice if room[0].window.valid else choice._replace(reason="last_resort")


def _not_ejected(standings: list[Standing], now: float) -> list[Standing]:
    """Leave out who is ejected, the longest first, but never more than half, nor the last."""
    barred = [s for s in standings if not s.ejection.quiet and s.ejection.bars(now)]
    if not barred:
        return standings
    barred.sort(key=lambda s: s.ejection.until or 0.0, reverse=True)
    out = barred[: len(standings) // 2]
    return [s for s in standings if s not in out]


def _spared(standing: Standing, ask: Ask, now: float) -> bool:
    """Whether others with room go first, unless the model is just being loaded there."""
    slows = standing.ejection.slows(standing.ledger.total, now)
    return slows and standing.readiness(ask.names) is not Readiness.LOADING


def _worth_waiting(
    ask: Ask,
    ready: Sequence[Standing],
    room: Sequence[Standing],
    now: float,
    ahead: Callable[[str], int],
) -> bool:
    """Whether a full server that has the model will be free before another has loaded it."""
    if not all(s.must_load(ask.names) for s in room):
        return False
    full = [s for s in ready if s.ledger.full and not s.must_load(ask.names)]
    if not full:
        return False
    before = ahead(ask.model)
    waits = [s.expected_wait(now, before, ask.names) for s in full]
    return min(waits) < min(s.load_seconds for s in room)


def _among(ask: Ask, room: Sequence[Standing], pin: Pin | None, now: float) -> Choice:
    """Pick among servers that all may take the request."""
    if (
        ask.prompt is not None
        and ask.prompt.size >= WORTH_KEEPING
        and (choice := _by_prompt(ask, ask.prompt, room, now))
    ):
        return choice
    if pin is not None and (choice := _where_it_was(pin, ask, room, now)):
        return choice
    preferred = _preferred(ask, room)
    return (
        _free_instance(ask, preferred, now)
        or next((_least_busy(s, ask, "idle", now) for s in preferred if _idle(s)), None)
        or _least_busy(min(preferred, key=lambda s: s.ledger.load), ask, "least_loaded", now)
    )


def _by_prompt(ask: Ask, prompt: Prompt, room: Sequence[Standing], now: float) -> Choice | None:
    """Find the place that saves the most work, or costs others the least."""
    best: tuple[tuple[float, ...], Choice] | None = None
    alone = len(room) == 1
    for order, standing in enumerate(room):
        instances = standing.offered(ask.names)
        for instance in instances:
            residency = standing.residency(instance, len(instances))
            fit = residency.fit(prompt, now, standing.elsewhere)
            if fit is None:
                continue
            if alone and len(instances) == 1:
                return Choice(standing.server.name, instance, _REASONS[fit.match], fit)
            # Where nothing tells of slots, all but an idle server may be out of them.
            crowded = not residency.slots and standing.ledger.load > 0
            if fit.match <= Match.REMEMBERED:
                rank: tuple[float, ...] = (0, fit.match, -fit.known, standing.ledger.load, order)
            else:
                rank = (
                    1,
                    standing.server.tier,
                    *_effort_to_load(standing, ask),
                    Match.EVICTS if crowded else fit.match,
                    crowded,
                    not fit.anchor,
                    fit.worth,
                    standing.ledger.load,
                    not standing.window.idle,
                    residency.occupied(now) / (len(residency.slots) or 1),
                    order,
                )
            if best is None or rank < best[0]:
                name = standing.server.name
                best = rank, Choice(name, instance, _REASONS[fit.match], fit)
    return best and best[1]


def _where_it_was(pin: Pin, ask: Ask, room: Sequence[Standing], now: float) -> Choice | None:
    for s in room:
        if (
            s.server.name == pin.server
            and not s.lacks(ask.names)
            and pin.instance in s.offered(ask.names)
            and not (s.must_load(ask.names) and s not in _first_to_load(ask, room))
        ):
            return _at(s, pin.instance, ask, "sticky", now)
    return None


def _preferred(ask: Ask, room: Sequence[Standing]) -> Sequence[Standing]:
    """Keep the servers of the first tier that has room; of these, those with the least to load."""
    if len(room) == 1:
        return room
    tier = min(s.server.tier for s in room)
    return _first_to_load(ask, [s for s in room if s.server.tier == tier])


def _first_to_load(ask: Ask, room: Sequence[Standing]) -> Sequence[Standing]:
    """Keep the servers where the least must happen before the model is in memory."""
    efforts = [_effort_to_load(s, ask) for s in room]
    least = min(efforts)
    return [s for s, effort in zip(room, efforts, strict=True) if effort == least]


def _effort_to_load(standing: Standing, ask: Ask) -> tuple[int, float]:
    """Rank a server by what must happen first; who unloads, by how long that was not used."""
    readiness = standing.readiness(ask.names)
    return readiness, standing.unused_since() if readiness is Readiness.SWAP else 0.0


def _free_instance(ask: Ask, room: Sequence[Standing], now: float) -> Choice | None:
    for standing in room:
        if standing.ledger.foreign:
            continue  # nobody knows on which instance
        for instance in standing.offered(ask.names):
            if not standing.ledger.on(instance):
                return _at(standing, instance, ask, "free_instance", now)
    return None


def _idle(standing: Standing) -> bool:
    """Whether a GPU is known to be idle; where nobody tells, only who has nothing to do is."""
    ledger, window = standing.ledger, standing.window
    return window.idle and not ledger.foreign and (window.known or not ledger.total)


def _least_busy(standing: Standing, ask: Ask, reason: Reason, now: float) -> Choice:
    instance = min(standing.offered(ask.names), key=standing.ledger.on)
    return _at(standing, instance, ask, reason, now)


def _at(standing: Standing, instance: str, ask: Ask, reason: Reason, now: float) -> Choice:
    """Complete a choice by the slot that fits best."""
    fit = None
    if ask.prompt is not None and (standing.told is not None or ask.prompt.size >= WORTH_KEEPING):
        residency = standing.residency(instance, len(standing.offered(ask.names)))
        fit = residency.fit(ask.prompt, now, standing.elsewhere)
    return Choice(standing.server.name, instance, reason, fit)
