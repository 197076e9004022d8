"""Which models there are, over all servers."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from app.routing.backend import Backend
from app.routing.fleet import Fleet, spelt

MOST_NAMES: Final = 12
"""So many models are named where all would be too long to read."""


def offered(
    backends: Iterable[Backend],
    aliases: Mapping[str, Collection[str]] = MappingProxyType({}),
    fleet: Fleet | None = None,
) -> list[str]:
    """Merge the servers' model lists, sorted, without the further instances of a model.

    Aliases are listed beside the models that they stand for, under any name of theirs. Of a
    `fleet` only what requests can reach by its patterns is listed.
    """
    backends = list(backends)
    models = set(models_by_name(backends).values())
    if fleet is not None:
        models = {model for model in models if _is_reached(model, backends, fleet)}
    known = {alias for alias, meant in aliases.items() if any(spelt(m, models) for m in meant)}
    return sorted(models | known)


def _is_reached(model: str, backends: Iterable[Backend], fleet: Fleet) -> bool:
    """Whether a server that lists a model may get requests for it."""
    servers = fleet.reached(model)
    return any(b.server.name in servers and model in (b.models or ()) for b in backends)


def some_of(names: Sequence[str]) -> list[str]:
    """Name the first, and count the others."""
    more = len(names) - MOST_NAMES
    return [*names[:MOST_NAMES], *([f"and {more} more"] if more > 0 else [])]


def facts_of(names: Collection[str], backends: Iterable[Backend]) -> Mapping[str, object]:
    """Return what the first server says of a model that lists it under one of these names."""
    for backend in backends:
        for name in names:
            if (known := spelt(name, backend.facts)) is not None:
                return backend.facts[known]
    return {}


def largest_context(names: Collection[str], backends: Iterable[Backend]) -> int | None:
    """Return how many tokens a prompt for a model may have at its best server, if that is known."""
    found = [
        context
        for backend in backends
        for name in names
        if backend.listed((name,)) and (context := backend.context_of((name,))) is not None
    ]
    return max(found, default=None)


def listed(backends: Iterable[Backend]) -> set[str]:
    """Merge the servers' model lists as they are."""
    return {name for backend in backends for name in backend.models or ()}


def models_by_name(backends: Iterable[Backend]) -> dict[str, str]:
    """Name the model of every listed name: itself, if it is a model of its own on any server."""
    found: dict[str, str] = {}
    for backend in backends:
        for name in backend.models or ():
            model = backend.model_of(name)
            if found.setdefault(name, model) != model:
                found[name] = name
    return found
