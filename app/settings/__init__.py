"""The settings, from the environment, a `.env` file and a folder of secrets."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from app.settings.mistakes import OTHERS, SettingsError, lines, variable
from app.settings.schema import Settings
from app.settings.server import ServerSettings, known_kinds
from app.settings.variables import Sources

__all__ = [
    "OTHERS",
    "ServerSettings",
    "Settings",
    "SettingsError",
    "Sources",
    "load",
    "validated",
    "variable",
]


def load(kinds: Collection[str] = (), sources: Sources | None = None) -> Settings:
    """Read the settings of this process, or read them again from the same `sources`.

    `kinds` of model servers may be named; any, where there are none.

    Raises:
        SettingsError: with every mistake that was found.
    """
    variables = (sources or Sources()).read()
    return validated(variables.values, variables.written, kinds)


def validated(
    values: Mapping[str, Any],
    written: Mapping[tuple[str, ...], str] = MappingProxyType({}),
    kinds: Collection[str] = (),
) -> Settings:
    """Validate values; `written` tells which variable a place in them came from.

    Raises:
        SettingsError: with every mistake that was found.
    """
    known_kinds.set(kinds)
    try:
        return Settings(**values)
    except ValidationError as error:
        raise SettingsError(lines(error, written, Settings)) from None
