"""Regular expressions for model names, of which the first that matches decides."""

import re
from collections.abc import Sequence
from typing import Final, Generic, TypeVar

NAME_LIMIT: Final = 256
"""Longest model name, in characters, that is matched and remembered."""

MOST_NAMES: Final = 1000
"""How many names are remembered: they come from clients."""

LATEST: Final = ":latest"
"""The tag that some servers give a name without one; they list the name with it."""

Value = TypeVar("Value")

_SPECIAL: Final = frozenset("*+?()[]{}|^$\\")


def is_name(pattern: str) -> bool:
    """Whether a pattern is a name, and means nothing else."""
    return _SPECIAL.isdisjoint(pattern)


class Patterns(Generic[Value]):
    """Finds what the first pattern that matches a whole name stands for."""

    def __init__(self, values: Sequence[tuple[re.Pattern[str], Value]]) -> None:
        self._values = values
        self._known: dict[str, Value | None] = {}

    def find(self, name: str) -> Value | None:
        """Look a name up as it stands, then with or without the tag; None where none matches."""
        if len(name) > NAME_LIMIT or not self._values:
            return None
        try:
            return self._known[name]
        except KeyError:
            found = self._first_match(name)
            if len(self._known) < MOST_NAMES:
                self._known[name] = found
            return found

    def _first_match(self, name: str) -> Value | None:
        other = name.removesuffix(LATEST) if ":" in name else name + LATEST
        for spelling in (name, other):
            for regex, value in self._values:
                if regex.fullmatch(spelling):
                    return value
        return None
