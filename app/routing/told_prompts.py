"""Prompts that other replicas of the balancer have placed, followed as our own are."""

from typing import NamedTuple

from app.routing.backend import Backend
from app.routing.prompt import Prompt
from app.routing.prompt_cache import WORTH_KEEPING, Match, Occupancy, Placement


class ToldPrompt(NamedTuple):
    """What a replica tells of a prompt that it has placed at a server."""

    instance: str
    slot: int | None
    """The number of its slot; None where the server has none."""
    named: bool
    """Whether the server was asked for that slot."""
    slots: int
    """How many the instance has."""
    continued: int
    """The base of the prompt that it continues, where that has left its slot."""
    prompt: Prompt
    at: float
    """When it was placed, in seconds."""


def follow(backend: Backend, told: ToldPrompt) -> Occupancy | None:
    """Have a prompt occupy its place; None where there is no such place here."""
    cache = backend.prompt_cache(told.instance)
    if backend.self_report is None and told.slots != len(cache.slots):
        cache.resize(told.slots)  # the server has not said so to us yet
    slot = next((x for x in cache.slots if x.number == told.slot), None)
    if slot is None and told.slot is not None:
        return None
    backend.keep(told.instance, cache)
    if told.slot is not None:
        backend.heard_of(told.slot)
    if not told.named:
        backend.name_slot(None)
    held = 0 if slot is None else slot.holds(told.prompt)
    match = Match.CONTINUES if held >= WORTH_KEEPING else Match.EVICTS
    placement = Placement(cache, match, slot, held, continued=told.continued)
    return cache.take(placement, told.prompt, told.at)
