"""The lines of a stream that comes in pieces, as far as they are whole."""

from typing import Final

LONGEST: Final = 64 * 1024
"""Longest line that is waited for, in bytes; the beginning of a longer one passes as it is."""


class WholeLines:
    """Keeps the beginning of a line until its end has come."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def take(self, data: bytes, *, last: bool) -> bytes:
        """Add a piece, and return what there is up to the end of a line; all, with the `last`."""
        if self._rest:
            data = self._rest + data
        end = len(data) if last else data.rfind(b"\n") + 1
        if len(data) - end > LONGEST:
            end = len(data)
        self._rest = data[end:]
        return data[:end]
