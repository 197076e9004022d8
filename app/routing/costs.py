"""What a place costs in seconds, told before; and what came of it, counted after."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from app.routing.backend import Backend
from app.routing.choice import Ask
from app.routing.model_memory import Readiness
from app.routing.prompt import Prompt
from app.routing.prompt_cache import Match, Placement


class Cost(NamedTuple):
    """What a server costs a request, and others, in seconds; None for what is not known."""

    wait: float
    """Until there is a place, and the server is awake."""
    load: float
    """Until the model is in memory."""
    read: float | None
    """To read what is in no cache of the prompt."""
    others: float | None
    """What others must read or load again."""

    @property
    def first_token(self) -> float | None:
        """Until the first token comes."""
        return None if self.read is None else self.wait + self.load + self.read


NOTHING: Final = Cost(0.0, 0.0, None, None)
"""Where nothing is known."""


@dataclass
class Tally:
    """What came of weighing in seconds."""

    held: float = 0.0
    """Seconds that requests have waited beside places that were held."""
    saved: float = 0.0
    """Seconds of reading again that held places have saved."""
    turns: dict[str, int] = field(default_factory=lambda: {"slot": 0, "model": 0})
    """How often one that had waited beside a held place took it from another."""
    expected: dict[str, float] = field(default_factory=dict)
    """Seconds until first tokens as they were expected, by server."""
    measured: dict[str, float] = field(default_factory=dict)
    """What the same ones took."""

    def compare(self, server: str, expected: float, measured: float) -> None:
        """Take in how long a first token took that was expected within so many seconds."""
        self.expected[server] = self.expected.get(server, 0.0) + expected
        self.measured[server] = self.measured.get(server, 0.0) + measured


def reading(characters: int, backend: Backend, ask: Ask) -> float:
    """Return how many seconds a server reads so much text; 0 where its speed is not known."""
    return max(0, characters) / ask.characters / (backend.prefill or math.inf)


def unread(prompt: Prompt, placement: Placement | None) -> int:
    """Return how many characters of a prompt are in no cache of a place."""
    if placement is None:
        return prompt.size
    if placement.match is Match.REMEMBERED:
        return prompt.size - prompt.prefixes[placement.continued]
    return prompt.size - placement.known


def cost_here(
    backend: Backend, ask: Ask, placement: Placement | None, now: float, ahead: int = 0
) -> Cost:
    """Tell what a server costs a request that gets this place there, behind so many others."""
    names = ask.names
    readiness = backend.readiness(names, ask.context)
    wait = backend.backlog(now)
    if backend.asleep:
        wait = backend.sleep.seconds_left(now) + ahead * backend.place_seconds
    elif backend.ledger.full:
        wait = max(wait, backend.expected_wait(now, ahead, names))
    load = others = 0.0
    if readiness >= Readiness.ROOM:
        load = backend.load_seconds(names)
    elif readiness is Readiness.LOADING and not backend.ledger.full:
        load = backend.load_left(names, now)
    again = backend.reloads(backend.offered(names), ask.context)
    out = None if again or readiness is not Readiness.SWAP else backend.memory.oldest()
    if out is not None:
        others = backend.memory.load_seconds((out,))
    prompt = ask.prompt
    if prompt is None or backend.prefill is None:
        return Cost(wait, load, None, others or None)
    if placement is not None and placement.match is Match.EVICTS and placement.slot is not None:
        slot, cache = placement.slot, placement.prompt_cache
        kept = not slot.drops_for(prompt)
        lost = cache.lost_by_evicting(slot, now, placement.continued, kept=kept)
        others += reading(lost, backend, ask)
    return Cost(wait, load, reading(unread(prompt, placement), backend, ask), others)


def best_placement(backend: Backend, ask: Ask, now: float) -> Placement | None:
    """Find the place that saves most of a prompt among a server's instances."""
    if ask.prompt is None:
        return None
    instances: Sequence[str] = backend.offered(ask.names)
    found = [
        placement
        for instance in instances
        if (
            placement := backend.prompt_cache(instance, len(instances)).placement(
                ask.prompt, now, backend.elsewhere
            )
        )
    ]
    return min(found, key=lambda placement: (placement.match, -placement.known), default=None)
