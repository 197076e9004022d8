"""A request's JSON body, read once and edited in place."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from orjson import JSONDecodeError, loads

from app.apis.json_text import byte_members, scan
from app.apis.pieces import Pieces, Uncut
from app.apis.structure import LARGE, MOST, give_way, is_too_much

TOO_DEEP: Final = "the body nests too deeply"
"""Parsers and writers give up at about a thousand levels."""

NO_OBJECT: Final = "the body is not a JSON object"

TOO_MUCH: Final = f"the body holds more than {MOST:,} values"

TOO_LONG: Final = "the body holds a name, a number or a space of megabytes"


class BadRequest(ValueError):
    """The body cannot be routed; the message is for the client."""


_text_behind: Final[Callable[[bytes, int], re.Match[bytes] | None]] = re.compile(
    rb'[ \t\n\r]*:[ \t\n\r]*("(?:[^"\\]|\\.)*")'
).match
MODEL: Final = b'"model"'
SPACE: Final = " \t\n\r"


class Body:
    """A JSON object, and edits of its members that leave every other byte as it was."""

    __slots__ = ("_model_at", "_places", "_values", "get", "raw")

    def __init__(self, raw: bytes) -> None:
        """Read a body.

        Raises:
            BadRequest: it is not a JSON object in UTF-8 (RFC 8259 sections 4 and 8.1), nests
                too deeply, holds too many values, or names its model twice: the server might
                serve the one that was not routed.
        """
        self.raw = raw
        self._places: list[tuple[str, int, int]] | None = None
        """Where its members stand, if that is known."""
        if len(raw) > LARGE:
            self._values, self._places = _read_long(raw)
        else:
            self._values = _read(raw)
        self.get: Callable[[str], object] = self._values.get
        """Reads a member's value; None where there is none."""
        self._model_at = -1
        """Where its name stands; -1 where there is more than one that might be it."""
        if self._places is not None:
            self._place("model")
            return
        # A name can be spelled with escapes, too. To count takes longer: most stand in front.
        at = raw.find(MODEL)
        once = at == raw.rfind(MODEL)
        escaped = raw.find(b"\\") >= 0 and raw.find(b"\\u00") >= 0  # `in` takes thrice as long
        if once and not escaped:
            self._model_at = at
        if escaped or not once:
            self._place("model")

    def forget(self, *names: str) -> None:
        """Free the memory of members' values; the bytes keep them."""
        values = self._values
        for name in names:
            if name in values:
                del values[name]

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
        places = [(start, end) for name, start, end in self._members() if name == wanted]
        if len(places) > 1:
            raise BadRequest(f"the body names {wanted} twice")
        return places[0] if places else (0, 0)

    def _members(self) -> Iterator[tuple[str, int, int]]:
        """Walk over the members: name, and where the value starts and ends in the bytes."""
        if self._places is not None:
            yield from self._places
            return
        try:
            yield from byte_members(self.raw.decode())
        except RecursionError:
            raise BadRequest(TOO_DEEP) from None


def _written(value: object) -> str:
    try:
        written = json.dumps(value, ensure_ascii=False)
        written.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return json.dumps(value)
    except RecursionError:
        raise BadRequest(TOO_DEEP) from None
    return written


def _read_long(raw: bytes) -> tuple[dict[str, object], list[tuple[str, int, int]]]:
    """Read a body in pieces: its members' values, and where they stand."""
    if is_too_much(raw):
        raise BadRequest(TOO_MUCH)
    if not raw.lstrip().startswith(b"{"):
        raise BadRequest(NO_OBJECT)
    pieces = Pieces(raw, _judge)
    try:
        while pieces.step():
            give_way(raw)
    except RecursionError:
        raise BadRequest(TOO_DEEP) from None
    except Uncut:
        raise BadRequest(TOO_LONG) from None
    except ValueError as error:  # the characters are counted from where the piece begins
        wrong = str(error) if isinstance(error, BadRequest) else "the body is not JSON"
        raise BadRequest(wrong.partition(":")[0]) from None
    return pieces.values, pieces.places


def _read(raw: bytes) -> dict[str, object]:
    if is_too_much(raw):
        raise BadRequest(TOO_MUCH)
    try:
        values = loads(raw)
    except JSONDecodeError:
        return _judge(raw)
    if not isinstance(values, dict):
        raise BadRequest(NO_OBJECT)
    return values


def _judge(raw: bytes) -> dict[str, object]:
    """Raise what is wrong with a body, or take it all the same: half a surrogate pair is JSON."""
    try:
        text = raw.decode()
        values, end = scan(text, 0 if text[:1] == "{" else len(text) - len(text.lstrip(SPACE)))
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
        raise BadRequest(NO_OBJECT)
    return values
