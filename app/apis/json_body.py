"""A request's JSON body, read once and edited in place."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import orjson

from app.apis.structure import MOST, give_way, is_too_much

TOO_DEEP: Final = "the body nests too deeply"
"""Parsers and writers give up at about a thousand levels."""

TOO_MUCH: Final = f"the body holds more than {MOST:,} values"


class BadRequest(ValueError):
    """The body cannot be routed; the message is for the client."""


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_scan: Final = json.JSONDecoder(parse_constant=_refuse_constant).scan_once  # type: ignore[attr-defined]
_Match = Callable[..., re.Match[str] | None]
_open: Final[_Match] = re.compile(r"[ \t\n\r]*\{[ \t\n\r]*(\}?)").match
_name: Final[_Match] = re.compile(
    r'[ \t\n\r]*"((?:[^"\\\x00-\x1f]|\\.)*)"[ \t\n\r]*:[ \t\n\r]*'
).match
_open_list: Final[_Match] = re.compile(r"[ \t\n\r]*\[[ \t\n\r]*(\]?)").match
_next: Final[_Match] = re.compile(r"[ \t\n\r]*([,\]])[ \t\n\r]*").match
_comma: Final[_Match] = re.compile(r"[ \t\n\r]*([,}])").match
_text_behind: Final[Callable[[bytes, int], re.Match[bytes] | None]] = re.compile(
    rb'[ \t\n\r]*:[ \t\n\r]*("(?:[^"\\]|\\.)*")'
).match
MODEL: Final = b'"model"'
SPACE: Final = " \t\n\r"


class Body:
    """A JSON object, and edits of its members that leave every other byte as it was."""

    __slots__ = ("_model_at", "_values", "get", "raw")

    def __init__(self, raw: bytes) -> None:
        """Read a body.

        Raises:
            BadRequest: it is not a JSON object in UTF-8 (RFC 8259 sections 4 and 8.1), nests
                too deeply, holds too many values, or names its model twice: the server might
                serve the one that was not routed.
        """
        self.raw = raw
        self._values = _read(raw)
        give_way(raw)
        self.get: Callable[[str], object] = self._values.get
        """Reads a member's value; None where there is none."""
        # A name can be spelled with escapes, too. To count takes longer: most stand in front.
        at = raw.find(MODEL)
        once = at == raw.rfind(MODEL)
        escaped = raw.find(b"\\") >= 0 and b"\\u00" in raw  # `in` takes thrice as long
        self._model_at = at if once and not escaped else -1
        """Where its name stands; -1 where there is more than one that might be it."""
        give_way(raw)
        if escaped or not once:
            self._place("model")

    def forget(self, *names: str) -> None:
        """Free the memory of members' values; the bytes keep them."""
        for name in names:
            self._values.pop(name, None)

    def keep(self, *names: str) -> None:
        """Free the memory of all values but those of some members; the bytes keep them.

        A member whose value is freed is still there, and is None.
        """
        values = self._values
        for name in values:
            if name not in names:
                values[name] = None

    def edited(self, changes: Mapping[str, object]) -> bytes:
        """Return the body with some members set; unchanged bytes where nothing changes.

        Raises:
            BadRequest: the body names a member that is to be set twice.
        """
        changes = {k: v for k, v in changes.items() if k not in self or self.get(k) != v}
        if not changes:
            return self.raw
        edits = []
        added = []
        for name, value in changes.items():
            written = _written(value)
            if name in self:
                edits.append((*self._place(name), written))
            else:
                added.append(f"{json.dumps(name)}:{written}")
        if added:
            end = self.raw.rindex(b"}")
            separator = "," if self._values else ""
            edits.append((end, end, separator + ",".join(added)))
        view = memoryview(self.raw)
        pieces: list[bytes | memoryview] = []
        done = 0
        for start, end, written in sorted(edits):
            pieces += (view[done:start], written.encode())
            done = end
        return b"".join([*pieces, view[done:]])

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def _place(self, wanted: str) -> tuple[int, int]:
        """Find where a member's value stands in the bytes; (0, 0) where there is none."""
        if wanted == "model" and self._model_at >= 0:
            value = _text_behind(self.raw, self._model_at + len(MODEL))
            if value is not None:
                return value.span(1)
        text = self.raw.decode()
        try:
            found = list(members(text))
        except RecursionError:
            raise BadRequest(TOO_DEEP) from None
        places = [(start, end) for name, start, end in found if name == wanted]
        if len(places) > 1:
            raise BadRequest(f"the body names {wanted} twice")
        if not places:
            return 0, 0
        start, end = (len(text[:place].encode()) for place in places[0])
        return start, end


def _written(value: object) -> str:
    try:
        written = json.dumps(value, ensure_ascii=False)
        written.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return json.dumps(value)
    except RecursionError:
        raise BadRequest(TOO_DEEP) from None
    return written


def _read(raw: bytes) -> dict[str, object]:
    if is_too_much(raw):
        raise BadRequest(TOO_MUCH)
    give_way(raw)
    try:
        values = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _judge(raw)
    if not isinstance(values, dict):
        raise BadRequest("the body is not a JSON object")
    return values


def _judge(raw: bytes) -> dict[str, object]:
    """Raise what is wrong with a body, or take it all the same: half a surrogate pair is JSON."""
    try:
        text = raw.decode()
        values, end = _scan(text, 0 if text[:1] == "{" else len(text) - len(text.lstrip(SPACE)))
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8") from None
    except RecursionError:
        raise BadRequest(TOO_DEEP) from None
    except StopIteration as stop:
        raise BadRequest(f"the body is not JSON: no value at character {stop.value}") from None
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    if end != len(text) and text[end:].strip(SPACE):
        raise BadRequest(f"the body is not JSON: more follows at character {end}")
    if not isinstance(values, dict):
        raise BadRequest("the body is not a JSON object")
    return values


def elements(text: str) -> Iterator[tuple[int, int]]:
    """Walk over the elements of an array: start and end.

    Raises:
        ValueError: what was walked over is no JSON.
    """
    step = _open_list(text)
    while step is not None and step[1] != "]":
        start = step.end()
        end = _end(text, start)
        yield start, end
        step = _next(text, end)
    if step is None:
        raise ValueError("the array has no end")


def members(text: str) -> Iterator[tuple[str, int, int]]:
    """Walk over the members of an object: name, start and end.

    Raises:
        ValueError: what was walked over is no JSON.
    """
    step = _open(text)
    while step is not None and step[1] != "}":
        step = _name(text, step.end())
        if step is None:
            raise ValueError("a member has no name")
        name = json.loads(f'"{step[1]}"') if "\\" in step[1] else step[1]
        start = step.end()
        end = _end(text, start)
        yield name, start, end
        step = _comma(text, end)
    if step is None:
        raise ValueError("the object has no end")


def _end(text: str, start: int) -> int:
    """Find the end of the value that begins there."""
    try:
        end: int = _scan(text, start)[1]
    except StopIteration:
        raise ValueError(f"no value at character {start}") from None
    return end
