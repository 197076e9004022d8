"""Which models there are, over all servers."""

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from app.routing.fleet import spelt
from app.routing.standing import Standing


def offered(
    standings: Iterable[Standing], aliases: Mapping[str, Collection[str]] = MappingProxyType({})
) -> list[str]:
    """Merge the servers' model lists, sorted, without the further instances of a model.

    Aliases are listed beside the models that they stand for, under any name of theirs.
    """
    standings = list(standings)
    models = set(models_by_name(standings).values())
    names = listed(standings)
    known = {alias for alias, meant in aliases.items() if any(spelt(m, names) for m in meant)}
    return sorted(models | known)


def listed(standings: Iterable[Standing]) -> set[str]:
    """Merge the servers' model lists as they are."""
    return {name for standing in standings for name in standing.models or ()}


def models_by_name(standings: Iterable[Standing]) -> dict[str, str]:
    """Name the model of every listed name: itself, if it is a model of its own on any server."""
    found: dict[str, str] = {}
    for standing in standings:
        for name in standing.models or ():
            model = standing.model_of(name)
            if found.setdefault(name, model) != model:
                found[name] = name
    return found
