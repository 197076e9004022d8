"""Which names of a server's model list mean the same model: `model`, `model-2`, and so on."""

import re
from collections.abc import Collection
from typing import Final

from app.routing.fleet import spelt

_NUMBERED: Final = re.compile(r"(.+)-([1-9][0-9]{0,8})")


def instances(model: str, listed: Collection[str], *, numbered: bool = True) -> tuple[str, ...]:
    """List the instances of a model on a server that lists these names; empty where it has none.

    The model itself must be listed, and the numbers must run from 2 without a gap: `phi-4` is
    a model of its own, and so is a `gemma-3` beside a `gemma`. Unless `numbered`, each name is
    a model of its own.
    """
    first = spelt(model, listed)
    if first is None:
        return ()
    found = [first]
    if numbered:
        while (name := spelt(f"{model}-{len(found) + 1}", listed)) is not None:
            found.append(name)
    return tuple(found)


def model_of(name: str, listed: Collection[str], *, numbered: bool = True) -> str:
    """Name the model that a listed name is an instance of on that server: mostly itself."""
    match = _NUMBERED.fullmatch(name) if numbered else None
    if match is None:
        return name
    model, number = match[1], int(match[2])
    if number < 2 or model not in listed:
        return name
    return model if all(f"{model}-{n}" in listed for n in range(2, number)) else name
