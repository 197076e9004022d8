"""Mistakes in the settings, each told in one line: the variable, what is wrong, what is right."""

import json
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

PREFIX = "BALANCER_"
DELIMITER = "__"
OTHERS = ("BALANCER_PUBLISH", "BALANCER_SECRETS_DIR")
"""Variables with our prefix that are no settings of the program: where compose publishes it,
and where the secrets lie."""

SECRET = ("admin_key", "api_keys", "join_token", "metrics_key", "valkey_url")
"""Settings whose values stand in no message: a key may stand in the wrong place."""

Place = tuple[str, ...]
"""Where a value is: ("servers", "PC1", "health_port")."""

MESSAGES = {
    "bool_parsing": "must be true or false",
    "dict_type": "must be a JSON object",
    "float_parsing": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "missing": "is missing",
    "model_type": "must be a JSON object",
    "string_too_short": "has no name",
    "too_short": "must name at least one server",
    "tuple_type": "must be a list",
}
"""What is wrong, where pydantic's own words (https://errors.pydantic.dev) are not plain enough."""


class SettingsError(ValueError):
    """The settings hold mistakes; `str()` has one line for each."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


def variable(setting: str) -> str:
    """Name the variable of a setting."""
    return PREFIX + setting.upper()


def mistake(message: str, example: object = None) -> PydanticCustomError:
    """Make the error that a validator raises, with an example of what would be right."""
    return PydanticCustomError("mistake", "{message}", {"message": message, "example": example})


def lines(
    error: ValidationError, written: Mapping[Place, str], model: type[BaseModel]
) -> list[str]:
    """Name every mistake by the variable that it was written in."""
    return [_printable(_line(details, written, model)) for details in error.errors()]


def _printable(text: str) -> str:
    """Escape what no terminal shall see as it is."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def _line(details: ErrorDetails, written: Mapping[Place, str], model: type[BaseModel]) -> str:
    # A number is the index in a list: the text there says which item is meant.
    place = tuple(part for part in details["loc"] if isinstance(part, str) and part != "[key]")
    variable, inside = _origin(place, written)
    where = f"{variable}: {'.'.join(map(_quoted, inside))}" if inside else variable
    if details["type"] == "extra_forbidden":
        return f"{where}: is no setting; {_known(place, variable, inside, model)}"
    example = details.get("ctx", {}).get("example")
    if details["loc"][-1] == "[key]":
        right = _json(example or next(iter(_entries(place, model))))
    else:
        right = _assigned(_example(place, model) if example is None else example, variable, inside)
    return f"{where}: {_what(details)}; for example {right}"


def _what(details: ErrorDetails) -> str:
    kind, value = details["type"], details["input"]
    if kind == "mistake":
        return details["msg"]
    if kind == "too_short" and isinstance(value, str):  # a secret, which is not told
        return f"must have at least {details['ctx']['min_length']} characters"
    what = MESSAGES.get(kind) or details["msg"].replace("Input should be", "must be")
    if kind == "missing" or not isinstance(value, str | int | float):
        return what
    if details["loc"][0] in SECRET:
        return what
    return f"{what}, not {_json(value)[:80]}"


def _origin(place: Place, written: Mapping[Place, str]) -> tuple[str, Place]:
    """Find the variable that holds a place, and the way to the place inside its JSON."""
    for length in range(len(place), 0, -1):
        if variable := written.get(place[:length]):
            return variable, place[length:]
    variable = PREFIX + place[0].upper()
    if len(place) == 3 and any(other[:2] == place[:2] for other in written):
        return DELIMITER.join((variable, place[1], place[2].upper())), ()
    return variable, place[1:]


def _known(place: Place, variable: str, inside: Place, model: type[BaseModel]) -> str:
    """Return what might have been meant."""
    names = list(_fields(place, model))
    if len(place) == 1:
        names += [other.removeprefix(PREFIX).lower() for other in OTHERS]
    if close := get_close_matches(place[-1], names):
        meant = next((name for name in close if name.startswith(place[-1])), close[0])
        start = variable[: -len(place[-1])]
        question = f"did you mean {meant if inside else start + meant.upper()}?"
        example = _example((meant,), model) if meant in model.model_fields else None
        if isinstance(example, dict):  # whose form nobody guesses
            return f"{question} For example {_assigned(example, start + meant.upper(), ())}"
        return question
    if len(place) == 1:
        return "all of them are in .env.example"
    return f"there are {', '.join(names)}"


def _fields(place: Place, model: type[BaseModel]) -> Mapping[str, Any]:
    """List the fields beside a place: the settings, or those of one server."""
    if len(place) == 3:
        inner: type[BaseModel] = get_args(model.model_fields[place[0]].annotation)[-1]
        return inner.model_fields
    return model.model_fields


def _example(place: Place, model: type[BaseModel]) -> object:
    beside = _fields(place, model)
    if place[-1] in beside and len(place) in (1, 3):
        field = beside[place[-1]]
        return field.examples[0] if field.examples else field.default
    return next(iter(_entries(place, model).values()))


def _entries(place: Place, model: type[BaseModel]) -> dict[str, object]:
    """Show servers by name, or servers by model pattern, as they could be."""
    (entries,) = model.model_fields[place[0]].examples or [{}]
    return dict(entries)


def _assigned(example: object, variable: str, inside: Place) -> str:
    if inside:
        return f"{_json(inside[-1])}: {_json(example)}"
    if isinstance(example, dict):
        return f"{variable}='{_json(example)}'"
    if isinstance(example, list | tuple):
        return f"{variable}={','.join(map(str, example))}"
    text = _json(example) if isinstance(example, bool | int | float) else str(example)
    return f"{variable}={text}"


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name) else _json(name)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
