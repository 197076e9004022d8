"""Where a request would go, and why: a response for people who wonder."""

from collections.abc import Sequence
from typing import Any

from app.control.snapshot import Calendar, change_json, change_of_prompt
from app.routing.backend import Backend
from app.routing.balancer import Balancer
from app.routing.choice import Ask, Choice, available
from app.routing.costs import Cost
from app.routing.prompt_cache import Match

MATCHES = {
    Match.CONTINUES: "a free slot holds the prompt that this one continues",
    Match.REMEMBERED: "the server holds that prompt outside of its slots",
    Match.CHANGED: "a free slot holds this conversation, with a text in it that differs",
    Match.EMPTY: "a slot is empty",
    Match.EVICTS: "every free slot holds somebody's conversation",
    None: "no slot is free",
}


def explain(balancer: Balancer, ask: Ask, now: float) -> dict[str, Any]:
    """Return which servers may take a request, how they stand, and which one would get it.

    `now` is in seconds since the epoch.
    """
    at, now = Calendar(balancer.now(), now), balancer.now()
    candidates, choice = balancer.consider(ask)
    takers = available(ask, candidates, now)
    return {
        "model": ask.model,
        "client": ask.client,
        "prompt_characters": None if ask.prompt is None else ask.prompt.size,
        "prompt_tokens": balancer.tokens_of(ask),
        "outcome": "goes" if choice else "waits" if candidates else "is refused",
        "held_for_others": choice is None and balancer.seconds.held,
        "choice": None if choice is None else _choice(choice, candidates),
        "servers": [
            _candidate(x, ask, now, at, balancer.cost(ask, x, now), takes=x in takers)
            for x in candidates
        ],
    }


def _choice(choice: Choice, candidates: Sequence[Backend]) -> dict[str, Any]:
    slot = (
        None
        if choice.placement is None or choice.placement.slot is None
        else choice.placement.slot.number
    )
    named = any(s.names_slots for s in candidates if s.server.name == choice.server)
    return {
        "server": choice.server,
        "instance": choice.instance,
        "reason": choice.reason,
        "slot": slot if named else None,
    }


def _candidate(
    backend: Backend, ask: Ask, now: float, at: Calendar, cost: Cost, *, takes: bool
) -> dict[str, Any]:
    ledger, server = backend.ledger, backend.server
    lacks = backend.lacks(ask.names)
    return {
        "server": server.name,
        "status": backend.status,
        "changed": change_json(backend.changed, at),
        "takes_requests": takes,
        "has_model": None if backend.models is None else not lacks,
        "context": backend.context_of(ask.names),
        "fits": backend.holds(ask.names, ask.tokens),
        "must_load": backend.must_load(ask.names, ask.context),
        "seconds": _seconds(cost),
        "in_flight": ledger.total,
        "in_flight_of_others": ledger.foreign,
        "request_max": ledger.limit,
        "tier": server.tier,
        "weight": server.weight,
        "instances": [] if lacks else _instances(backend, ask, now),
    }


def _seconds(cost: Cost) -> dict[str, float | None]:
    """Write what a server costs: the request until its first token, and others after it."""
    first = cost.first_token
    return {
        "wait": round(cost.wait, 2),
        "load": round(cost.load, 2),
        "read": None if cost.read is None else round(cost.read, 2),
        "first_token": None if first is None else round(first, 2),
        "others": None if cost.others is None else round(cost.others, 2),
    }


def _instances(backend: Backend, ask: Ask, now: float) -> list[dict[str, Any]]:
    instances = backend.offered(ask.names)
    return [_instance(backend, x, len(instances), ask, now) for x in instances]


def _instance(
    backend: Backend, instance: str, instances: int, ask: Ask, now: float
) -> dict[str, Any]:
    report = {"instance": instance, "in_flight": backend.ledger.on(instance)}
    if ask.prompt is None:
        return report
    prompt_cache = backend.prompt_cache(instance, instances)
    placement = prompt_cache.placement(ask.prompt, now, backend.elsewhere)
    share = 0.0 if placement is None else placement.known / (ask.prompt.size or 1)
    return report | {
        "change": change_of_prompt(None if placement is None else placement.change(ask.prompt)),
        "cache": MATCHES[None if placement is None else placement.match],
        "expected_share": round(share, 3),
        "slots": len(prompt_cache.slots) or None,
    }
