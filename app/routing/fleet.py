"""The servers, the model patterns, and which servers may serve a model."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

NAME_LIMIT: Final = 256
"""Longest model name, in characters, that is matched against the patterns."""


LATEST: Final = ":latest"
"""The tag that some servers give a name without one; they list the name with it."""


def spelt(name: str, names: Collection[str]) -> str | None:
    """Return a name as it is in `names`: as it stands, or with the tag."""
    return next((spelling for spelling in (name, name + LATEST) if spelling in names), None)


def spellings(model: str) -> tuple[str, str]:
    """Return both ways to write a name: as it stands, and with or without the tag."""
    return model, model.removesuffix(LATEST) if ":" in model else model + LATEST


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
    _known: dict[str, tuple[str, ...] | None] = field(default_factory=dict, repr=False)

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
        return cls(by_name, patterns, fallback or next(iter(by_name), None))

    def candidates(self, model: str) -> tuple[str, ...] | None:
        """Name the servers of the first pattern that matches `model`; None where none does."""
        try:
            return self._known[model]
        except KeyError:
            found = self._first_match(model)
            # The names come from clients, so the memory of them is bounded.
            if len(self._known) < 1000:
                self._known[model] = found
            return found

    def _first_match(self, model: str) -> tuple[str, ...] | None:
        if len(model) > NAME_LIMIT:
            return None
        for name in spellings(model):
            for pattern in self.patterns:
                if pattern.regex.fullmatch(name):
                    return pattern.servers
        return None
