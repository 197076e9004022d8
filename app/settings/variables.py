"""The variables that begin with BALANCER_: the environment's, those in `.env`, and the secrets."""

import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dotenv.parser import parse_stream

from app.settings.mistakes import DELIMITER, OTHERS, PREFIX, Place, SettingsError, mistake

ENV_FILE = Path(".env")
SECRETS_DIR = Path("/run/secrets")
NESTED = ("servers", "models")
"""Settings that may be written piece by piece: BALANCER_SERVERS__PC1__ADDR."""

OLD_NAMES = {"models_ttl": "models_interval", "queue_keepalive": "stream_keepalive"}
"""Names that settings had once, which still mean them."""


def read_json(text: str, *, secret: bool = False) -> Any:
    """Read JSON; a key that is there twice is a mistake, not silently the last.

    No part of a `secret` text stands in the message about a mistake.

    Raises:
        PydanticCustomError: the text is no JSON, or has a key twice. It is a ValueError.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_twins)
    except json.JSONDecodeError as error:
        if secret:
            where = f"line {error.lineno}, column {error.colno}"
            raise mistake(f"is not valid JSON at {where}: {error.msg}") from None
        near = text[max(0, error.pos - 10) : error.pos + 10]
        raise mistake(f"is not valid JSON near {near!r}: {error.msg}") from None


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise mistake(f'has the key "{key}" twice')
        found[key] = value
    return found


@dataclass
class Variables:
    """What the variables say, laid out as the settings are, and how each was written."""

    values: dict[str, Any] = field(default_factory=dict)
    written: dict[Place, str] = field(default_factory=dict)

    def put(self, place: Place, name: str, text: str) -> None:
        """Put a text in its place; JSON on the way there is opened."""
        tree = self.values
        way: Place = ()
        for key in place[:-1]:
            # Windows knows variables in upper case only: PC1 may add to what JSON calls pc1.
            same = (known for known in tree if known.casefold() == key.casefold())
            known_as = key if key in tree else next(same, key)
            way += (known_as,)
            node = tree.setdefault(known_as, {})
            if isinstance(node, str):
                try:
                    node = tree[known_as] = read_json(node)
                except ValueError:
                    return  # validation says what is wrong with the whole
            if not isinstance(node, dict):
                return
            tree = node
        if len(place) == 3:
            for twin in [key for key in tree if plain(key) == place[-1]]:
                del tree[twin]
        tree[place[-1]] = text
        self.written[*way, place[-1]] = name


class Sources:
    """Where the settings are written, to be read again and again.

    The environment goes before `.env`, `.env` before the secrets. But what the environment says
    as `.env` does at first comes from there: compose passes the file on, and a shell may have
    read it. It holds as `.env` says later.
    """

    def __init__(self) -> None:
        """Look at them for the first time.

        Raises:
            SettingsError: a file cannot be read.
        """
        environment, dotenv = _ours(os.environ), _ours(_dotenv())
        self._passed_on = {
            place
            for place, (_, text) in dotenv.items()
            if text == environment.get(place, ("", ""))[1]
        }
        folder = (dotenv | environment).get(("secrets_dir",))
        self.paths = [ENV_FILE, SECRETS_DIR if folder is None else Path(folder[1])]
        """The files and folders, whether they are there or not."""

    def read(self) -> Variables:
        """Read them all.

        Raises:
            SettingsError: a file cannot be read.
        """
        said = _ours(os.environ)
        environment = {place: said[place] for place in said if place not in self._passed_on}
        found = _ours(_dotenv()) | environment
        folder = found.get(("secrets_dir",))
        found = _ours(_secrets(Path(folder[1]) if folder else None)) | found
        variables = Variables()
        # Whole values go before their pieces, which add to them.
        for place in sorted(found, key=len):
            name, text = found[place]
            if name.upper() not in OTHERS:
                variables.put(place, name, text)
        return variables


def plain(key: str) -> str:
    """Write a server's key as the settings do: `health-port` is `health_port`."""
    return key.lower().replace("-", "_")


def _ours(variables: Mapping[str, str]) -> dict[Place, tuple[str, str]]:
    """Pick our variables, by place; one without a text is not set."""
    return {
        _place(name): (name, text)
        for name, text in variables.items()
        if name.upper().startswith(PREFIX) and text.strip()
    }


def _place(name: str) -> Place:
    head, *rest = name[len(PREFIX) :].split(DELIMITER)
    setting = head.lower()
    if not head or head.startswith("_"):
        return (name.lower(),)  # BALANCER__X is no setting, and no argument of pydantic's either
    if not rest or setting not in NESTED:
        named = name[len(PREFIX) :].lower()
        return (OLD_NAMES.get(named, named),)
    if setting == "servers" and len(rest) > 1:
        return (setting, DELIMITER.join(rest[:-1]), plain(rest[-1]))
    return (setting, DELIMITER.join(rest))


def _dotenv() -> dict[str, str]:
    if not ENV_FILE.is_file():
        return {}
    if not os.access(ENV_FILE, os.R_OK) and any(_ours(os.environ)):
        return {}  # compose has read it for us, and passed it on
    return dict(_bindings(_text(ENV_FILE)))


def _bindings(text: str) -> Iterator[tuple[str, str]]:
    """Go through the lines of a `.env` file.

    What stands in single quotes is taken literally, as a shell and compose do: a regular
    expression's backslashes stay. Nothing is interpolated.
    """
    for binding in parse_stream(io.StringIO(text)):
        line = binding.original.string
        if binding.error:
            raise SettingsError(
                [f"{ENV_FILE}: cannot read {line.strip()[:40]!r}; for example {PREFIX}PORT=18000"]
            )
        if binding.key is None or binding.value is None:
            continue
        raw = line.partition("=")[2].lstrip()
        literal = raw[1:].partition("'")[0] if raw.startswith("'") else binding.value
        yield binding.key, literal


def _secrets(folder: Path | None) -> dict[str, str]:
    """Read the files of the folder; each is named like a variable and holds its value."""
    if folder is None:
        if not SECRETS_DIR.is_dir():
            return {}
        folder = SECRETS_DIR
    elif not folder.is_dir():
        name = f"{PREFIX}SECRETS_DIR"
        raise SettingsError([f"{name}: {folder} is no folder; for example {name}={SECRETS_DIR}"])
    try:
        files = sorted(path for path in folder.iterdir() if path.name.upper().startswith(PREFIX))
    except OSError as error:
        raise SettingsError([f"{folder}: cannot be read: {error.strerror}"]) from None
    return {path.name: _text(path).strip() for path in files if path.is_file()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path}: cannot be read: {error}"]) from None
