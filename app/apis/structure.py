"""How much a JSON text will take to parse, told from its punctuation before it is parsed."""

import re
from time import sleep
from typing import Final

LONG: Final = 64 * 1024
"""Texts up to so many bytes may hold whatever they like: it takes a millisecond or two."""

MOST: Final = 1_000_000
"""Most values that a text may hold; a member, an object or an array counts as several.

Some 50 ms are spent on so many, in which nobody else is served. An array of a million token ids
just fits.
"""

HEAVY: Final = 4
"""How many values a member, an object or an array counts as."""

LARGE: Final = 1024 * 1024
"""Texts of more bytes are read in a thread of their own: it takes up to half a second."""

MOMENT: Final = 0.001
"""How long it is that the event loop has for itself, in seconds."""

SLICE: Final = 256 * 1024
"""How many bytes are looked at before it is known whether to go on."""

_PLAIN: Final = bytes(set(range(256)) - set(b'",:[{'))
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b'"[]{}'))
_TEXT: Final = re.compile(rb'"[^"]*"?')
_BACKSLASH: Final = ord("\\")


def is_too_much(raw: bytes) -> bool:
    """Whether a JSON text holds more values than may be. It need not be whole, nor right."""
    if len(raw) <= LONG:
        return False
    values = 0
    for start in range(0, len(raw), SLICE):
        if start and start % LARGE == 0:
            give_way(raw)
        values += _values(raw[start : start + SLICE])
        if values > MOST:  # unless it is punctuation of texts
            values = _values(_without_texts(raw[: start + SLICE]))
            if values > MOST:
                return True
    return False


def give_way(raw: bytes) -> None:
    """Let the event loop go on, where a long text is read beside it: compiled code never does.

    It takes a moment: each of the loop's callbacks waits for the interpreter anew.
    """
    if len(raw) > LARGE:
        pause()


def pause() -> None:
    """Leave the interpreter to the event loop for a moment."""
    sleep(MOMENT)


def _values(text: bytes) -> int:
    return text.count(b",") + HEAVY * (text.count(b":") + text.count(b"[") + text.count(b"{"))


def quotes(text: bytes) -> int:
    """How many quotation marks begin or end a text."""
    return text.count(b'"') if b"\\" not in text else _unescaped(text).count(b'"')


def last_quote(text: bytes, end: int) -> int:
    """Find the last quotation mark in front of a place that begins or ends a text; or -1."""
    at = text.rfind(b'"', 0, end)
    while at >= 0:
        before = at - 1
        while before >= 0 and text[before] == _BACKSLASH:
            before -= 1
        if (at - before) % 2 == 1:
            break
        at = text.rfind(b'"', 0, at)
    return at


def brackets(text: bytes, *, in_text: bool) -> tuple[int, str]:
    """Tell how many brackets are closed that were open before, and which are left open."""
    closed = 0
    opened: list[str] = []
    found = _without_texts(b'"' + text if in_text else text, _NO_BRACKETS)
    for bracket in found.decode():
        if bracket in "[{":
            opened.append(bracket)
        elif opened:
            opened.pop()
        else:
            closed += 1
    return closed, "".join(opened)


def _without_texts(raw: bytes, plain: bytes = _PLAIN) -> bytes:
    """Leave only the punctuation between texts (RFC 8259 section 2) that is not plain."""
    return _TEXT.sub(b"", _unescaped(raw).translate(None, plain))


def _unescaped(raw: bytes) -> bytes:
    return raw.replace(b"\\\\", b"").replace(b'\\"', b"")
