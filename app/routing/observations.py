"""What is found out about a server, by probes and by requests."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from app.routing.health_window import Sample, Side
from app.routing.kind import Kind

ONLY: Final = ""
"""Stands for every name of the model of a server that has but one."""


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """A server did not answer as it should."""

    server: str
    side: Side
    unreachable: bool
    """No connection could be made: nothing listens there."""
    reason: str = field(default="", compare=False)
    """A word for people."""
    error: str = field(default="", compare=False)
    """What went wrong there, in a sentence."""
    silent: bool = field(default=False, compare=False)
    """No response came in time."""


@dataclass(frozen=True, slots=True)
class HealthSeen:
    """A server's health address answered."""

    server: str
    sample: Sample


@dataclass(frozen=True, slots=True)
class ModelsSeen:
    """A server's model API answered; `models` is None where it has no list to show."""

    server: str
    models: Collection[str] | None
    facts: Mapping[str, Mapping[str, object]] = field(default_factory=dict, compare=False)
    """What the list says of each model."""


@dataclass(frozen=True, slots=True)
class Introduced:
    """A server was asked for all there is to know of it, whatever came of it."""

    server: str


@dataclass(frozen=True, slots=True)
class SelfReport:
    """What a model server tells of its own state; None for what its kind does not tell."""

    server: str
    kind: Kind
    loading: bool = False
    """It loads its model, and cannot answer yet."""
    slots: int | None = None
    """How many requests it works on at once; more wait inside."""
    busy_slots: frozenset[int] | None = None
    """The numbers of the slots that are at work."""
    active: int | None = None
    """Requests inside, at work or waiting, of anybody."""
    loaded: frozenset[str] | None = None
    """Names of the models in memory, and of those that sleep: they come back by themselves."""
    starting: frozenset[str] = frozenset()
    """Names of the models that are being loaded."""
    asleep: frozenset[str] = frozenset()
    """Those of `loaded` that sleep: their caches are empty."""
    contexts: Mapping[str, int] = field(default_factory=dict)
    """How many tokens the contexts of models in memory have; that of its only one is `ONLY`."""
    asked_at: float = field(default=0.0, compare=False)
    """When it was asked, in seconds."""

    def renamed(self, names_here: Callable[[Collection[str]], frozenset[str]]) -> "SelfReport":
        """Return the same, with the models called as they are here."""
        return replace(
            self,
            loaded=None if self.loaded is None else names_here(self.loaded),
            starting=names_here(self.starting),
            asleep=names_here(self.asleep),
            contexts={
                here: tokens
                for there, tokens in self.contexts.items()
                for here in (names_here([there]) if there != ONLY else (ONLY,))
            },
        )

    @property
    def at_work(self) -> int | None:
        """Requests that it works on, of anybody; None where it does not tell."""
        return self.active if self.busy_slots is None else len(self.busy_slots)


@dataclass(frozen=True, slots=True)
class ContextSeen:
    """A server said how many tokens its context has."""

    server: str
    instance: str
    tokens: int


MEASURABLE: Final = 200
"""Fewest tokens whose reading tells something about a server's speed."""


class CacheReuse:
    """What a response report of the work that its prompt was."""

    __slots__ = ("cached", "prompt", "seconds")

    def __init__(self, prompt: int, cached: int | None, seconds: float | None) -> None:
        self.prompt = prompt
        """Tokens of the prompt."""
        self.cached = cached
        """Those of them that came from a cache; None where the server does not tell."""
        self.seconds = seconds
        """From sending the request to the first token, where that was seen or told."""


Observation = ProbeFailed | HealthSeen | ModelsSeen | Introduced | SelfReport | ContextSeen
