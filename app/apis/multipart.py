"""A form with files, as far as routing needs it: its model."""

import re
from collections.abc import Mapping
from email.message import Message
from typing import Final

from app.apis.json_body import BadRequest

MOST_PARTS: Final = 1000

_NAME: Final = re.compile(
    rb'content-disposition:[^\r\n]*;\s*name=(?:"(\w+)"|(\w+))\s*(?:;|\r|$)', re.IGNORECASE
)


def boundary_of(content_type: bytes) -> bytes | None:
    """Find what stands between the parts of a form; None where the body is no such form."""
    if not content_type.lower().startswith(b"multipart/form-data"):
        return None
    header = Message()
    header["content-type"] = content_type.decode("latin-1")
    boundary = header.get_boundary()
    try:
        return None if boundary is None else boundary.encode("latin-1")
    except UnicodeEncodeError:  # RFC 2231 can write what no body can contain
        raise BadRequest("the form's boundary is not ASCII") from None


class Form:
    """A `multipart/form-data` body (RFC 7578), and edits of its short fields."""

    __slots__ = ("_places", "raw")

    def __init__(self, raw: bytes, boundary: bytes) -> None:
        """Read a form.

        Raises:
            BadRequest: it has no part, or too many, or names its model twice.
        """
        self.raw = raw
        self._places: dict[str, tuple[int, int]] = {}
        delimiter = b"--" + boundary
        start = raw.find(delimiter)
        if start < 0:
            raise BadRequest("the form does not contain its boundary")
        parts = 0
        while (end := raw.find(b"\r\n" + delimiter, start)) >= 0:
            parts += 1
            if parts > MOST_PARTS:
                raise BadRequest(f"the form has more than {MOST_PARTS:,} parts")
            self._take_in(start + len(delimiter), end)
            start = end + 2

    def get(self, name: str) -> object:
        """Read a field's text; None where there is none."""
        place = self._places.get(name)
        if place is None:
            return None
        start, end = place
        return self.raw[start:end].decode(errors="replace")

    def forget(self, *names: str) -> None:
        """Do as a `Body` does: nothing was read that takes memory."""

    def edited(self, changes: Mapping[str, object]) -> bytes:
        """Return the form with the texts of those of its fields replaced that it has."""
        places = self._places
        edits = sorted((places[name], str(changes[name])) for name in changes if name in places)
        raw = self.raw
        for (start, end), text in reversed(edits):
            raw = raw[:start] + text.encode() + raw[end:]
        return raw

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def _take_in(self, start: int, end: int) -> None:
        body = self.raw.find(b"\r\n\r\n", start, end)
        match = _NAME.search(self.raw, start, body) if body >= 0 else None
        if match is None:
            return
        name = (match[1] or match[2]).decode()
        if name == "model" and name in self._places:
            raise BadRequest("the form names model twice")
        self._places[name] = body + 4, end
