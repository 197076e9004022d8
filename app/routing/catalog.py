"""Which models there are, over all servers."""

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from app.routing.backend import Backend
from app.routing.fleet import spelt


def offered(
    backends: Iterable[Backend], aliases: Mapping[str, Collection[str]] = MappingProxyType({})
) -> list[str]:
    """Merge the servers' model lists, sorted, without the further instances of a model.

    Aliases are listed beside the models that they stand for, under any name of theirs.
    """
    backends = list(backends)
    models = set(models_by_name(backends).values())
    names = listed(backends)
    known = {alias for alias, meant in aliases.items() if any(spelt(m, names) for m in meant)}
    return sorted(models | known)


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
