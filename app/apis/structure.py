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

SLICE: Final = 256 * 1024
"""How many bytes are looked at before it is known whether to go on."""

_PLAIN: Final = bytes(set(range(256)) - set(b'",:[{'))
_TEXT: Final = re.compile(rb'"[^"]*"?')


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
    """Let the event loop go on, where a long text is read beside it: compiled code never does."""
    if len(raw) > LARGE:
        sleep(0)


def _values(text: bytes) -> int:
    return text.count(b",") + HEAVY * (text.count(b":") + text.count(b"[") + text.count(b"{"))


def _without_texts(raw: bytes) -> bytes:
    """Leave only the punctuation between texts (RFC 8259 section 2)."""
    unescaped = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    return _TEXT.sub(b"", unescaped.translate(None, _PLAIN))
