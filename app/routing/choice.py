"""Which server, instance and slot take a request: the rule, and nothing else."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from app.routing.prompt import Prompt
from app.routing.residency import WORTH_KEEPING, Fit, Match
from app.routing.standing import Standing
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


def choose(ask: Ask, candidates: Sequence[Standing], pin: Pin | None, now: float) -> Choice | None:
    """Pick a server, instance and slot for a request; None when all that may take it are full.

    Servers that are known not to have the model, or that are invalid, are out unless there
    is no other; one that is full, that drains or that loads never gets one more. Among the
    others the prompt decides: where it is held in a cache, else where nothing is lost. What
    has no prompt, or one too short to matter, goes where the client's last request went,
    unless its model is gone from there and in memory elsewhere; else, in the order of the
    candidates, to a server with a free instance; to an idle server; to the least loaded one.
    """
    able = [s for s in candidates if not s.lacks(ask.names)] or candidates
    room = [s for s in able if s.open and s.window.valid]
    if not room:
        waits = any(s.window.valid and not s.draining for s in able)
        return None if waits else _last_resort(ask, able, now)
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


def _last_resort(ask: Ask, able: Sequence[Standing], now: float) -> Choice | None:
    first = next((s for s in able if s.open), None)
    return None if first is None else _least_busy(first, ask, "last_resort", now)


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
                    standing.must_load(ask.names),
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
            and not (s.must_load(ask.names) and any(x.in_memory(ask.names) for x in room))
        ):
            return _at(s, pin.instance, ask, "sticky", now)
    return None


def _preferred(ask: Ask, room: Sequence[Standing]) -> Sequence[Standing]:
    """Keep the servers of the first tier that has room; of these, those that need not load."""
    if len(room) == 1:
        return room
    tier = min(s.server.tier for s in room)
    first = [s for s in room if s.server.tier == tier]
    return [s for s in first if not s.must_load(ask.names)] or first


def _free_instance(ask: Ask, room: Sequence[Standing], now: float) -> Choice | None:
    for standing in room:
        if standing.ledger.foreign:
            continue  # nobody knows on which instance
        for instance in standing.offered(ask.names):
            if not standing.ledger.on(instance):
                return _at(standing, instance, ask, "free_instance", now)
    return None


def _idle(standing: Standing) -> bool:
    return standing.window.idle and not standing.ledger.foreign


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
