"""A long JSON object, parsed a piece at a time, so that whoever shares the interpreter gets a turn.

A parser written in C holds the interpreter until it is done: with 60 MB for a tenth of a second,
in which nobody is served. A piece ends in front of a comma, or within a text longer than a piece.
It is parsed with the brackets around it that the pieces before have left open.
"""

import re
from collections.abc import Callable
from typing import Final

import orjson

from app.apis.json_text import byte_members
from app.apis.structure import brackets, last_quote, quotes
from app.routing.text_hash import hash_text

PIECE: Final = 1024 * 1024
"""How many bytes are parsed at once: 1 to 3 ms."""

MOST: Final = 4
"""Within so many times as much there must be a place for it to end."""

WHOLE: Final = 8
"""A text of more pieces is longer than models can read: of its further pieces there is a mark.

All that matters is whether they are the same.
"""

CHARACTER: Final = 12
"""The longest character in a text: two surrogates, each like `\\ud83d` (RFC 8259 section 7)."""

STEPS: Final = 100
"""Over how many texts a comma is looked for, back from where a piece might end."""

CUT: Final = "\0"
"""Names the member that goes on from the piece before."""

Container = list[object] | dict[str, object]

_OPENING: Final = {"[": "[", "{": '{"\\u0000":'}
_low_surrogate: Final[Callable[[bytes, int], re.Match[bytes] | None]] = re.compile(
    rb"\\u[dD][c-fC-F]"
).match
_CLOSING: Final = {"[": "]", "{": "}"}


class Uncut(ValueError):
    """No piece can end where one must."""


class Pieces:
    """What the pieces of a JSON object amount to, as far as they are parsed."""

    __slots__ = (
        "_at",
        "_in_text",
        "_judge",
        "_open",
        "_raw",
        "_size",
        "_spine",
        "_text",
        "places",
        "values",
    )

    def __init__(
        self, raw: bytes, judge: Callable[[bytes], dict[str, object]], size: int = PIECE
    ) -> None:
        """Begin with nothing parsed. `judge` parses what orjson does not.

        A piece has `size` bytes, more or less.
        """
        self._size = size
        self._raw = raw
        self._judge = judge
        self._at = 0
        """Where the next piece begins."""
        self._in_text = False
        """Whether it goes on with a text."""
        self._open = ""
        """The brackets that are open there."""
        self._spine: list[Container] = []
        """What those brackets hold so far, from the outermost on."""
        self._text: list[str] = []
        """What there is of the text."""
        self.values: dict[str, object] = {}
        """The object."""
        self.places: list[tuple[str, int, int]] = []
        """Its members: name, and where the value starts and ends in the bytes."""

    def step(self) -> bool:
        """Parse the next piece; whether another follows.

        Raises:
            Uncut: a name, a number or a space is longer than some pieces, or an object names a
                member twice around the end of a piece.
            ValueError: it is no JSON object.
            RecursionError: it nests too deeply.
        """
        piece, ends, in_text = self._next()
        last = ends == [len(self._raw) - self._at]
        closed, opened = brackets(piece[: ends[0]], in_text=self._in_text)
        kept = len(self._open) - closed
        still_open = self._open[: max(kept, 0)] + opened
        if kept < 0 or not (last or still_open):
            raise ValueError("more follows")
        opening = "".join([_OPENING[bracket] for bracket in self._open])
        if opening:
            opening += '"' if self._in_text else "null"
        closing = "" if last else "".join([_CLOSING[bracket] for bracket in reversed(still_open)])
        if in_text:
            closing = '"' + closing
        end, text, part = self._parse(opening.encode(), piece, ends, closing.encode())
        goes_on = in_text and self._in_text and last_quote(piece, len(piece)) < 0
        if self._at:
            self._join(part, goes_on=goes_on)
        else:
            self.values = part
        if not goes_on:
            del self._spine[kept:]
            self._open_more(opened)
            self._text = [str(_last(self._spine[-1]))] if in_text else []
        if kept <= 1:
            self._find(text, len(opening))
        self._at += end
        self._open = still_open
        self._in_text = in_text
        return not last

    def _next(self) -> tuple[bytes, list[int], bool]:
        """Take the next piece, with where it may end, and whether that is within a text."""
        start, rest = self._at, len(self._raw) - self._at
        for size in range(self._size, MOST * self._size + 1, self._size):
            if size >= rest:
                return self._raw[start:], [rest], False
            piece = self._raw[start : start + size]
            comma, in_text = self._comma(piece)
            if comma > 0:
                return piece, [comma], False
            if in_text:
                return piece, self._ends(size), True
        raise Uncut

    def _ends(self, size: int) -> list[int]:
        """List where a piece of a text may end, if possible not between two surrogates."""
        ends = range(size, size - CHARACTER, -1)
        between = [end for end in ends if _low_surrogate(self._raw, self._at + end) is not None]
        return [end for end in ends if end not in between] + between

    def _comma(self, piece: bytes) -> tuple[int, bool]:
        """Find the last comma between values, or else whether a piece may end within a text."""
        at = len(piece)
        begins = -1
        in_text = (quotes(piece) % 2 == 1) != self._in_text
        if in_text:
            at = begins = last_quote(piece, at)
            if begins < 0:
                return -1, True
        for _ in range(STEPS):
            text_ends = last_quote(piece, at)
            comma = piece.rfind(b",", text_ends + 1, at)
            if comma > 0:
                return comma, False
            at = last_quote(piece, text_ends) if text_ends > 0 else -1
            if at < 0:
                break
        before = piece[:begins].rstrip()[-1:] if in_text else b""
        is_value = before in (b":", b"[") or (before == b"," and self._open[-1:] == "[")
        return -1, is_value

    def _parse(
        self, before: bytes, piece: bytes, ends: list[int], after: bytes
    ) -> tuple[int, bytes, dict[str, object]]:
        """Parse a piece up to where a character ends: where that is, the whole text, the values."""
        failure: ValueError = Uncut()
        for parse in (orjson.loads, self._judge):
            for end in ends:
                text = before + piece[:end] + after
                try:
                    part = parse(text)
                except ValueError as error:
                    failure = error
                    continue
                if isinstance(part, dict):
                    return end, text, part
        raise failure

    def _join(self, part: dict[str, object], *, goes_on: bool) -> None:
        """Add to what is open what follows there in the next piece, which may be one text."""
        parts: list[Container] = []
        inner: object = part
        for _ in self._spine:
            if isinstance(inner, list):
                parts.append(inner)
                inner = inner[0]
            elif isinstance(inner, dict):
                parts.append(inner)
                inner = inner.pop(CUT)
            else:
                raise Uncut
        if self._in_text and isinstance(inner, str):
            self._text.append(inner if len(self._text) < WHOLE else str(hash_text(inner)))
            if goes_on:
                return
            _put(self._spine[-1], "".join(self._text))
        for held, rest in zip(self._spine, parts, strict=True):
            _extend(held, rest)

    def _open_more(self, opened: str) -> None:
        """Go down into what a piece has left open."""
        for bracket in opened:
            inner = _last(self._spine[-1]) if self._spine else self.values
            if isinstance(inner, list | dict) and isinstance(inner, list) == (bracket == "["):
                self._spine.append(inner)
            else:
                raise Uncut

    def _find(self, text: bytes, start: int) -> None:
        """Find the members in a piece, which was parsed as this text and begins there in it."""
        for name, begins, ends in byte_members(text.decode(), self._at - start):
            if begins < self._at and self.places:  # it goes on from the piece before
                self.places[-1] = (*self.places[-1][:2], ends)
            else:
                self.places.append((name, begins, ends))


def _last(container: Container) -> object:
    if isinstance(container, list):
        return container[-1]
    return container[next(reversed(container))]


def _put(container: Container, text: str) -> None:
    """Set the last value."""
    if isinstance(container, list):
        container[-1] = text
    else:
        container[next(reversed(container))] = text


def _extend(container: Container, rest: Container) -> None:
    """Add what follows in the next piece, but for its first value, which was there before."""
    if isinstance(container, list) and isinstance(rest, list):
        container += rest[1:]
    elif isinstance(container, dict) and isinstance(rest, dict):
        container.update(rest)
    else:
        raise Uncut
