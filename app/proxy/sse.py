"""A stream of events to a client, and whether one of ours can stand in it."""

import json
from typing import Final

from app.apis.errors import error_json
from app.upstream.connection import Head

EVENT_STREAM: Final = b"text/event-stream"
JSON_LINES: Final = b"application/x-ndjson"
"""How Ollama's own API streams."""

GATHERED_LIMIT: Final = 64 * 1024
"""Longest error of a server that is told within an event stream, in bytes, piece by piece."""

_BINDING: Final = (b"content-length", b"content-encoding")
"""Headers that leave no room for bytes of ours in a body."""


class EventStream:
    """What a client has got of a response, which may be a stream of events.

    We may have begun it before there was a response. One that cannot go on with it, since it is
    an error or no stream, is gathered then, and told as the last event.
    """

    __slots__ = ("_takes_ours", "early", "gathers", "last")

    def __init__(self) -> None:
        self.early = False
        """Whether it was begun before there was a response."""
        self.gathers = False
        """Whether the response cannot go on with it."""
        self.last = b""
        """The piece that was sent last; of what is no stream, all that was gathered."""
        self._takes_ours = False

    @property
    def between_events(self) -> bool:
        """Whether an event of ours may follow now."""
        ended = self.gathers or self.last.endswith((b"\n\n", b"\r\n\r\n"))
        return self._takes_ours and ended

    def begin(self) -> None:
        """Begin before there is a response."""
        self.early = self._takes_ours = True

    def go_on(self, head: Head, *, streams: bool) -> Head | None:
        """Take notice of a response's beginning; None where the client has had one already."""
        if self.early:
            self.gathers = head.status != 200 or not streams
            return None
        self._takes_ours = streams and not any(name in _BINDING for name, _ in head.headers)
        return head

    def gather(self, body: bytes) -> None:
        """Keep a piece of a response that is no stream."""
        self.last += body[:GATHERED_LIMIT]

    def gathered(self) -> bytes:
        """Write a response that is no stream as an event: an error, in OpenAI's form."""
        text = self.last.partition(b"\n\n")[2].decode(errors="replace")
        try:
            told = json.loads(text)
        except (ValueError, RecursionError):
            told = None
        if isinstance(told, dict) and "error" in told:
            return as_event(json.dumps(told).encode())
        return as_event(error_json(502, "upstream_error", text))


def as_event(data: bytes) -> bytes:
    """Write an event (WHATWG HTML, section 9.2.5); the data must be one line."""
    return b"data: " + data + b"\n\n"


def as_comment(text: str) -> bytes:
    """Write a comment, which clients skip: a line that begins with a colon (section 9.2.6)."""
    return f": {text}\n\n".encode()


def content_type(head: Head) -> bytes:
    """Return the type of a response's body; empty where it is not told."""
    for name, value in head.headers:
        if name == b"content-type":
            return value
    return b""
