"""Which models there are, over all servers."""

import re
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from app.routing.fleet import spelt
from app.routing.standing import Standing

_NUMBERED = re.compile(r"(.+)-(\d{1,9})")


def offered(
    standings: Iterable[Standing], aliases: Mapping[str, Collection[str]] = MappingProxyType({})
) -> list[str]:
    """Merge the servers' model lists, sorted, without the further instances of a model.

    Aliases are listed beside the models that they stand for, under any name of theirs.
    """
    names = listed(standings)
    models = {name for name in names if model_of(name, names) == name}
    known = {alias for alias, meant in aliases.items() if any(spelt(m, names) for m in meant)}
    return sorted(models | known)


def listed(standings: Iterable[Standing]) -> set[str]:
    """Merge the servers' model lists as they are."""
    return {name for standing in standings for name in standing.models or ()}


def model_of(name: str, names: set[str]) -> str:
    """Name the model that `name` is an instance of.

    `model-2` is an instance if `model` is listed too; `phi-4`, without a `phi`, is a model.
    """
    match = _NUMBERED.fullmatch(name)
    return match[1] if match and int(match[2]) >= 2 and match[1] in names else name
