"""Other names for models."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from app.routing.fleet import NAME_LIMIT, spellings

_SPECIAL: Final = frozenset("*+?()[]{}|^$\\")


class Aliases:
    """Regular expressions for whole names, and the models that these stand for.

    The first that matches decides. A model that an alias leads to is no alias in its turn.
    """

    def __init__(self, models: Mapping[str, str] = MappingProxyType({})) -> None:
        self._patterns = [(re.compile(pattern), model) for pattern, model in models.items()]
        self.names = {x: model for x, model in models.items() if _SPECIAL.isdisjoint(x)}
        """The aliases that are names rather than patterns, and their models."""
        self._known: dict[str, str] = {}

    def model(self, name: str) -> str:
        """Return which model a name stands for: itself, where no alias matches."""
        if not self._patterns:
            return name
        known = self._known.get(name)
        if known is None:
            known = self._first_match(name)
            # The names come from clients, so the memory of them is bounded.
            if len(self._known) < 1000:
                self._known[name] = known
        return known

    def _first_match(self, name: str) -> str:
        if len(name) <= NAME_LIMIT:
            for spelling in spellings(name):
                for regex, model in self._patterns:
                    if regex.fullmatch(spelling):
                        return model
        return name
