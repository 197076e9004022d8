"""The servers, the model patterns, and which servers may serve a model."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from app.routing.patterns import LATEST, Patterns


def spelt(name: str, names: Collection[str]) -> str | None:
    """Return a name as it is in `names`: as it stands, or with the tag."""
    return next((spelling for spelling in (name, name + LATEST) if spelling in names), None)


@dataclass(frozen=True, slots=True)
class Server:
    """One machine's model API.

    `model_base` and `health_base` are addresses without a trailing slash
    (`http://192.168.1.20:8081`). A server without a `health_base` is judged by its
    model list alone; one without a `request_max` takes any number of requests at once.
    """

    name: str
    model_base: str
    health_base: str | None = None
    request_max: int | None = None
    tier: int = 1
    """Servers of a higher number get new conversations only while those before have no room."""
    weight: float = 1.0
    """How much it can carry, compared with the others."""
    kind: str = "auto"
    """What kind of model server it is; `auto`: that is found out."""

    models: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What models are called there, by the names that they have here."""
    address: str | None = None
    """The IP address that is dialled, if not those of the name in `model_base`."""
    requests_per_hour: int | None = None
    context: int | None = None
    """How many tokens a prompt there may have, if it does not tell."""
    listed_only: bool = False
    """Whether it gets no requests but for models that it lists: no setting names it."""
    wakes: bool = False
    """Whether it can be woken where it does not respond."""

    def name_there(self, name: str) -> str:
        """Return what a model is called there."""
        return self.models.get(name, name)

    def names_here(self, names: Collection[str]) -> frozenset[str]:
        """Return what the models are called here that have these names there."""
        if not self.models:
            return frozenset(names)
        here = {name for name in self.models if self.models[name] in names}
        return frozenset(here.union(names).difference(self.models.values()) | here)

    def is_same(self, other: "Server") -> bool:
        """Whether what is known of one holds for the other, whatever else is set for it."""
        mine = self.name, self.model_base, self.address, self.kind
        return mine == (other.name, other.model_base, other.address, other.kind)


@dataclass(frozen=True, slots=True)
class ModelPattern:
    """A regular expression, matched against the whole model name, and who may serve it."""

    regex: re.Pattern[str]
    servers: tuple[str, ...]


@dataclass(frozen=True)
class Fleet:
    """All that the configuration says about servers and models; never changes."""

    servers: Mapping[str, Server]
    patterns: tuple[ModelPattern, ...] = ()
    fallback: str | None = None
    _table: Patterns[tuple[str, ...]] = field(
        default_factory=lambda: Patterns(()), repr=False, compare=False
    )

    @classmethod
    def of(
        cls,
        servers: Iterable[Server],
        models: Mapping[str, Iterable[str]] = MappingProxyType({}),
        fallback: str | None = None,
    ) -> "Fleet":
        """Build a fleet; the fallback is the first server unless one is named."""
        by_name = {server.name: server for server in servers}
        patterns = tuple(ModelPattern(re.compile(p), tuple(names)) for p, names in models.items())
        table = Patterns([(pattern.regex, pattern.servers) for pattern in patterns])
        return cls(by_name, patterns, fallback or next(iter(by_name), None), table)

    def reached(self, model: str) -> tuple[str | None, ...]:
        """Name the servers that get requests for a model: its pattern's, or the fallback."""
        return self.candidates(model) or (self.fallback,)

    def candidates(self, model: str) -> tuple[str, ...] | None:
        """Name the servers of the first pattern that matches `model`; None where none does."""
        return self._table.find(model)
