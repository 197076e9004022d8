"""Other names for models."""

import re
from collections.abc import Mapping
from types import MappingProxyType

from app.routing.patterns import Patterns, is_name


class Aliases:
    """Regular expressions for whole names, and the models that these stand for.

    The first that matches decides. A model that an alias leads to is no alias in its turn.
    """

    def __init__(self, models: Mapping[str, str] = MappingProxyType({})) -> None:
        self._models = Patterns([(re.compile(x), model) for x, model in models.items()])
        self.names = {x: model for x, model in models.items() if is_name(x)}
        """The aliases that are names rather than patterns, and their models."""

    def model(self, name: str) -> str:
        """Return which model a name stands for: itself, where no alias matches."""
        found = self._models.find(name)
        return name if found is None else found
