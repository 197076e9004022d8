"""The model's name in responses: the one that the client has asked for.

A server answers with the name that its request went out with, an alias's target or an instance's.
"""

import json
from collections.abc import Iterator
from typing import Final

from app.apis.json_text import members
from app.apis.whole_lines import WholeLines

_HOLDERS: Final = ("message", "response")
"""Members of events, Anthropic's and of OpenAI's responses, that hold the response with its name.

https://docs.anthropic.com/en/docs/build-with-claude/streaming,
https://platform.openai.com/docs/api-reference/responses-streaming
"""


class AskedName:
    """Writes the name that a client has asked for into one response; every other byte stays."""

    __slots__ = ("_lines", "_written")

    def __init__(self, name: str) -> None:
        self._written = json.dumps(name)
        self._lines = WholeLines()

    def whole(self, body: bytes) -> bytes:
        """Write it into a JSON object; what is none stays as it is."""
        if b'"model"' not in body:
            return body
        try:
            text = body.decode()
            places = [*_places(text)]
        except (ValueError, RecursionError):
            return body
        for start, end in reversed(places):
            text = text[:start] + self._written + text[end:]
        return text.encode() if places else body

    def piece(self, data: bytes, *, last: bool = False) -> bytes:
        """Write it into a stream's events, or lines, as far as they are whole; keep the rest."""
        lines = self._lines.take(data, last=last).split(b"\n")
        return b"\n".join([self._line(line) for line in lines])

    def _line(self, line: bytes) -> bytes:
        if b'"model"' not in line:
            return line
        start = line.find(b"{")
        if line[:start].rstrip() not in (b"", b"data:"):
            return line
        return line[:start] + self.whole(line[start:])


def _places(text: str) -> Iterator[tuple[int, int]]:
    """Find where a response's model stands, in the text of the response or of an event of it."""
    for name, start, end in members(text):
        if name == "model" and text[start] == '"':
            yield start, end
        elif name in _HOLDERS and text[start] == "{":
            for inner, first, last in members(text[start:end]):
                if inner == "model" and text[start + first] == '"':
                    yield start + first, start + last
