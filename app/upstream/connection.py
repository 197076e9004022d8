"""HTTP/1.1 to the model servers, over `asyncio.Protocol` and llhttp: the connection.

Our own client, because moving bytes is what this program exists for: a response's bytes are
handed to their receiver from the transport's callback, without a queue or a task between.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast

import httptools

from app.upstream import evidence
from app.upstream.errors import Broken, Garbled, Stale, TimedOut, Unheard, UpstreamError

HEAD_LIMIT: Final = 64 * 1024
"""Longest head of a response, in bytes."""

FIELDS_LIMIT: Final = 100
"""Most header fields of a response."""

ONE_WRITE: Final = 16 * 1024
"""Longest request, in bytes, that a socket's buffer takes as a whole or not at all."""

LAST_BYTES: Final = 0.1
"""Seconds after a cancel within which a server may still send what was under way already."""

Headers = list[tuple[bytes, bytes]]


class Head:
    """Status and headers of a response; the names in lower case."""

    __slots__ = ("headers", "status")

    def __init__(self, status: int, headers: Headers) -> None:
        self.status = status
        self.headers = headers

    @property
    def framed(self) -> bool:
        """Whether the response tells where its body ends (RFC 9112 section 6.3)."""
        return any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)


class Receiver(Protocol):
    """Takes a response as it comes. Called from the transport's callbacks; must not block."""

    def on_response(self, head: Head | None, body: bytes, *, complete: bool) -> None:
        """Take the next piece: the head once, bytes of the body, and whether that was all."""

    def on_failed(self, error: Exception) -> None:
        """End: nothing more will come. What is no `UpstreamError` is a fault of our own."""

    def on_drained(self) -> None:
        """Go on sending: the server has caught up."""


class Keeper(Protocol):
    """Owns connections, and hears what becomes of each."""

    def on_idle(self, connection: "Connection") -> None:
        """Take back a connection whose exchange is complete."""

    def on_cancelled(self, connection: "Connection") -> None:
        """Look after a connection whose server was told to stop."""

    def on_lost(self, connection: "Connection") -> None:
        """Forget a connection that is closed."""


HEAD_SECONDS: Final = 10.0
"""How long a response's head may take from its first byte to its last, in seconds."""


class Connection:
    """A connection to a server, for one exchange after another.

    It is an `asyncio.Protocol` in all but the base class, which would keep it from being
    compiled.

    After a `101 Switching Protocols` that was asked for, the bytes pass untouched.
    """

    __slots__ = (
        "_cancelled_at",
        "_chunks",
        "_complete",
        "_head",
        "_head_only",
        "_head_open",
        "_head_since",
        "_head_size",
        "_headers",
        "_keep",
        "_keeper",
        "_loop",
        "_on_gone",
        "_parser",
        "_raw",
        "_receiver",
        "_sent",
        "_size",
        "_status",
        "_transport",
        "_unread",
        "_upgrading",
        "_watch",
        "_writable",
        "_written",
        "heard_at",
        "lingers",
        "made_at",
        "paused",
        "reused",
    )

    def __init__(self, keeper: Keeper) -> None:
        self._loop = asyncio.get_running_loop()
        self._keeper = keeper
        self._receiver: Receiver | None = None
        self._writable = True
        self._parser: httptools.HttpResponseParser | None = None
        self._raw = self._head_only = self._upgrading = False
        self._sent = True
        self._written = self._size = 0
        """Bytes of all requests, and of the present one."""
        self._unread = False
        """Whether the server had closed before it could see the present request."""
        self._watch: evidence.Watch | None = None
        self._cancelled_at: float | None = None
        self._on_gone: Callable[[], None] | None = None
        self.lingers = False
        """Whether the server was told to stop, and may still be at work."""
        self.reused = False
        self.paused = False
        self.heard_at = self.made_at = self._loop.time()
        self._status = 0
        self._headers: Headers = []
        self._head: Head | None = None
        self._head_size = 0
        self._head_open = False
        self._head_since: float | None = None
        """Since when a response's head has come in part, by the loop's time."""
        self._chunks: list[bytes] = []
        self._complete = self._keep = False

    # What the proxy asks for

    def request(
        self,
        data: bytes,
        receiver: Receiver,
        *,
        body: bytes = b"",
        head_only: bool = False,
        unfinished: bool = False,
        upgrade: bool = False,
    ) -> None:
        """Send a request and have the response given to `receiver`.

        `body`: what of it does not stand behind the head in `data`.
        `head_only`: the response has no body whatever its head says (RFC 9110 section 9.3.2).
        `unfinished`: more of the request follows, by `send`.
        """
        if self._transport.is_closing():
            raise Stale("the kept connection was closed")
        self._receiver = receiver
        self._head_only = head_only
        self._upgrading = upgrade
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        self._begin()
        self._written += self._size
        self._size = 0
        if body:
            self.send(data)
            data = body
        self.send(data, last=not unfinished)

    def send(self, data: bytes, *, last: bool = False) -> bool:
        """Send more of the request's body, and return whether the server keeps up.

        Where it does not, the receiver should pause until `on_drained`.
        """
        self._sent = last
        self._size += len(data)
        self.heard_at = self._loop.time()
        self._transport.write(data)
        return self._writable

    def pause(self) -> None:
        """Read nothing more for now: the receiver's client is slower than the server."""
        if not self.paused and not self._transport.is_closing():
            self.paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        if self.paused:
            self.paused = False
            self.heard_at = self._loop.time()
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def hand_over(self, receiver: Receiver) -> None:
        """Pass the rest of the response to another receiver."""
        self._receiver = receiver

    def abort(self) -> None:
        """Close at once; the receiver hears nothing more."""
        self._receiver = None
        self._transport.abort()
        self._stop_lingering()

    def cancel(self) -> None:
        """Have the server stop; the receiver gets nothing more.

        Our half is closed, which servers take for a client that left, so that we see when
        the server closes its half: it has stopped then. One that goes on sending instead is
        told by a reset.
        """
        self._receiver = None
        if self.lingers or self._transport.is_closing():
            return
        self.lingers = True
        self._cancelled_at = self._loop.time()
        self._keeper.on_cancelled(self)
        if self._transport.is_closing():
            return
        if not self._transport.can_write_eof() or self._transport.get_write_buffer_size():
            self._transport.abort()
            return
        try:
            self._transport.write_eof()
            self._transport.resume_reading()
        except OSError:  # the server has reset the connection in this moment
            self._transport.abort()

    def when_gone(self, call: Callable[[], None]) -> None:
        """Call back once a cancelled server has stopped, or was given all the time it has."""
        self._on_gone = call

    def give_up(self, now: float, linger: float) -> bool:
        """Wait no longer for a cancelled server that had its time; False while it has some."""
        assert self._cancelled_at is not None
        if now - self._cancelled_at < linger:
            return False
        self._transport.abort()
        self._stop_lingering()
        return True

    def close(self) -> None:
        """Close an idle connection."""
        self._transport.close()

    def now(self) -> float:
        """Return the event loop's time, in seconds."""
        return self._loop.time()

    @property
    def answering(self) -> bool:
        """Whether the response has begun."""
        return self._status > 0

    @property
    def usable(self) -> bool:
        """Whether another request may be sent: the server's end of the connection is open.

        The socket is looked at, since the event loop may not have come to it yet.
        """
        if self._transport.is_closing():
            return False
        if self._watch is None:
            self._watch = evidence.watch(self._transport)
        return not self._watch(0)

    def head_takes_long(self, now: float) -> bool:
        """Whether the head of a response has begun to come, and should be there by now."""
        return self._head_since is not None and now - self._head_since >= HEAD_SECONDS

    def time_out(self, message: str) -> None:
        """Abandon the exchange, since the server keeps silent."""
        self._fail(TimedOut(message))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        if self._cancelled_at is not None:
            if self.heard_at - self._cancelled_at > LAST_BYTES:
                self._transport.abort()
        elif self._receiver is None or self._parser is None:
            # Nobody asked for these bytes: they must not become the next client's response.
            self._transport.abort()
        elif self._raw:
            self._receiver.on_response(None, data, complete=False)
        else:
            self._parse(self._parser, data)

    def eof_received(self) -> None:
        if self._cancelled_at is not None:
            self._stop_lingering()
        elif self.reused and not self._head_size and not self.answering:
            self._unread = evidence.unread(self._transport, self._written)

    def connection_lost(self, error: Exception | None) -> None:
        self._keeper.on_lost(self)
        self._parser = None  # it refers to us
        if self.lingers and isinstance(error, ConnectionError):
            self._stop_lingering()
        if self._receiver is not None:
            if self._raw or (error is None and self._ends_with_connection()):
                self._complete = True
                self._deliver()
            elif self._was_stale(error):
                self._fail(Stale("the kept connection was closed"))
            elif self.answering:
                self._fail(Broken("the server closed the connection in the middle of its response"))
            else:
                unheard = self.reused and not self._head_size
                kind = Unheard if unheard else Broken
                self._fail(kind("the server closed the connection without a response"))

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._receiver is not None:
            self._receiver.on_drained()

    # httptools

    def on_message_begin(self) -> None:
        if self._complete:
            raise Garbled("bytes after the end of the response")
        self._head_open = True

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come this way too. They are dropped (RFC 9110 section 6.5.1 allows it).
        if not self._status:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self._head_open = False
        status = self._parser.get_status_code()
        if status < 200 and status != 101:
            self._headers = []  # an interim response (RFC 9110 section 15.2) is for us alone
            return
        if status > 599 or (status == 101 and not self._upgrading):
            raise Garbled(f"the server answered with status {status}")
        if len(self._headers) > FIELDS_LIMIT:
            raise Garbled(f"the head of its response has more than {FIELDS_LIMIT} fields")
        if self._head_size > HEAD_LIMIT and _size(self._headers) > HEAD_LIMIT:
            raise Garbled(f"the head of its response is longer than {HEAD_LIMIT} bytes")
        self._status = status
        self._head = Head(status, self._headers)
        if self._head_only:
            self._complete = True
            self._keep = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        if not self._complete:
            self._chunks.append(body)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if self._status and not self._complete and self._status != 101:
            self._complete = True
            self._keep = self._parser.should_keep_alive()

    # Inside

    def _begin(self) -> None:
        """Expect a response of which nothing has come yet."""
        self._status = self._head_size = 0
        self._head_since = None
        self._headers = []
        self._head = None
        self._chunks = []
        self._complete = self._keep = False

    def _stop_lingering(self) -> None:
        self.lingers = False
        call, self._on_gone = self._on_gone, None
        if call is not None:
            call()

    def _parse(self, parser: httptools.HttpResponseParser, data: bytes) -> None:
        if not self._status:
            self._head_size += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._raw = True
            self._chunks = [data[upgrade.args[0] :]]
        except httptools.HttpParserError as error:
            if not self._complete:
                cause = error.__context__
                reason = str(cause) if isinstance(cause, Garbled) else "its response is not HTTP"
                self._fail(Garbled(reason))
                return
            self._keep = False
        if self._status:
            self._deliver()
        elif self._head_size > HEAD_LIMIT:
            self._fail(Garbled(f"the head of its response is longer than {HEAD_LIMIT} bytes"))
        elif not self._head_open:
            self._head_since = None  # an interim response has come
        elif self._head_since is None:
            self._head_since = self.heard_at

    def _deliver(self) -> None:
        receiver, head, chunks = self._receiver, self._head, self._chunks
        assert receiver is not None
        self._head = None
        self._chunks = []
        if self._complete:
            self._receiver = None
            if self._keep and self._sent and not self.paused:
                if self._head_only:
                    self._parser = None  # it waits for a body that does not come
                self.reused = True
                self._keeper.on_idle(self)
            else:
                self._transport.close()
        if head is not None or chunks or self._complete:
            body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            complete = self._complete
            try:
                receiver.on_response(head, body, complete=complete)
            except Exception as fault:  # noqa: BLE001 - a fault of ours must end the exchange, too
                if not complete:
                    self.abort()
                receiver.on_failed(fault)

    def _fail(self, error: UpstreamError) -> None:
        receiver = self._receiver
        self.cancel()
        if receiver is not None:
            receiver.on_failed(error)

    def _was_stale(self, error: Exception | None) -> bool:
        """Whether a lost connection had been closed before the request that went over it."""
        if not self.reused or self._head_size or self.answering:
            return False
        # Only writing fails in this way, to a socket that was reset before.
        refused = isinstance(error, BrokenPipeError) and self._size <= ONE_WRITE
        return self._unread or refused

    def _ends_with_connection(self) -> bool:
        """Whether the end of the connection ends the response (RFC 9112 section 6.3)."""
        if not self._status:
            return False
        names = {name for name, _ in self._headers}
        return not names & {b"content-length", b"transfer-encoding"}


def _size(headers: Headers) -> int:
    return sum([len(name) + len(value) + len(b": \r\n") for name, value in headers])
