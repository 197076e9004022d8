"""A stream to a client, and whether a piece of ours can stand in it."""

import json
from typing import Final

from app.apis.dialects import COMMENT, Dialect
from app.proxy.headers import editable
from app.upstream.connection import Head

GATHERED_LIMIT: Final = 64 * 1024
"""Longest error of a server that is passed on within a stream, in bytes, piece by piece."""

_LONGEST: Final = 32
"""As many bytes as the longest of what ends a stream has, and more."""

_TAIL: Final = 4
"""As many bytes as the longest end of an event has."""


class EventStream:
    """What a client has got of a response, which may be a stream of events or of lines.

    We may have begun it before there was a response. One that cannot go on with it, since it is
    an error or no stream, is gathered then, and passed on as the last piece.
    """

    __slots__ = (
        "_gathered",
        "_status",
        "_tail",
        "_takes_ours",
        "_window",
        "dialect",
        "early",
        "gathers",
        "model",
        "unended",
    )

    def __init__(self, dialect: Dialect) -> None:
        self.early = False
        """Whether it was begun before there was a response."""
        self.gathers = False
        """Whether the response cannot go on with it."""
        self.model = ""
        """The name by which the client has asked for the model."""
        self.dialect = dialect
        self.unended = False
        """Whether it would have to end by a word of its own, and has not: the end of a connection
        alone may be a server's death (RFC 9112 section 8)."""
        self._gathered = b""
        self._status = 0
        self._tail = self._window = b""
        self._takes_ours = False

    @property
    def takes_ours(self) -> bool:
        """Whether a piece of ours may follow now."""
        return self._takes_ours and (self.gathers or self.dialect.ended(self._tail))

    def begin(self) -> None:
        """Begin before there is a response."""
        self.early = self._takes_ours = True

    def go_on(self, head: Head, kind: bytes, *, ends: bool = False) -> Head | None:
        """Take notice of a response's beginning; None where the client has had one already.

        `ends` tells whether streams of this API end by a word of their own.
        """
        streams = kind.startswith(self.dialect.stream_type)
        self.unended = ends and streams and bool(self.dialect.endings) and not head.framed
        if self.early:
            self.gathers = head.status != 200 or not streams
            self._status = head.status
            return None
        self._takes_ours = streams and editable(head.headers)
        return head

    def passes(self, body: bytes) -> None:
        """Take notice of a piece of the response."""
        if self.unended and body:
            window = self._window + body
            self.unended = not any(ending in window for ending in self.dialect.endings)
            self._window = window[-_LONGEST:]
        self._tail = body if len(body) >= _TAIL else self._tail[-_TAIL:] + body

    def gather(self, body: bytes) -> None:
        """Keep a piece of a response that is no stream."""
        self._gathered += body[: max(0, GATHERED_LIMIT - len(self._gathered))]

    def gathered(self) -> bytes:
        """Write a response that is no stream as a piece of one: an error."""
        text = self._gathered.decode(errors="replace")
        try:
            told = json.loads(text)
        except (ValueError, RecursionError):
            told = None
        if isinstance(told, dict) and "error" in told:
            return self.dialect.passed_on(self._status, told)
        status = self._status if self._status >= 400 else 502
        return self.dialect.error_event(status, "upstream_error", text)

    def keepalive(self, user_agent: bytes) -> bytes:
        """Write a sign of life.

        OpenAI's packages count bytes, and the helpers in them take no event before the
        server's first one.
        """
        if not self._tail and user_agent.startswith((b"OpenAI/", b"AsyncOpenAI/")):
            return COMMENT
        return self.dialect.keepalive(self.model)


def content_type(head: Head) -> bytes:
    """Return the type of a response's body; empty where it is not told."""
    for name, value in head.headers:
        if name == b"content-type":
            return value
    return b""
