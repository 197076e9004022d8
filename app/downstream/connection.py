"""HTTP/1.1 from the clients, over a transport and llhttp: the connection."""

import asyncio
import contextlib
import functools
import socket
import struct
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, Protocol, cast
from urllib.parse import unquote

import httptools
import structlog

from app.apis.errors import error_json
from app.downstream.connections import Connections
from app.downstream.lingering_close import LingeringClose
from app.downstream.reading import TURN, rest
from app.downstream.request_head import HEAD_LIMIT, BadHead, Headers, check_head, check_size

HEAD_SECONDS: Final = 10.0
"""How long a request's head may take from its first byte to its last, in seconds."""

BODY_SECONDS: Final = 60.0
"""How long a body may take in any case, in seconds."""

LEAST_RATE: Final = 500
"""As many bytes of a body as must come in each second after that, on average."""

SHORT_TARGET: Final = 256
"""Longest target that is remembered as it was taken apart, in bytes."""

BODY_AHEAD: Final = 64 * 1024
"""Longest part of a pipelined request's body, in bytes, that is read before its turn."""

PIPELINE_LIMIT: Final = 100
"""How many requests may wait behind the one that is served."""

FRAMING: Final = (b"content-length", b"transfer-encoding")
"""Headers that tell how long a body is (RFC 9112 section 6)."""

STATUS_LINES: Final = {
    **{status: b"HTTP/1.1 %d \r\n" % status for status in range(100, 600)},
    **{s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus},
}

BODILESS: Final = (204, 304)
"""Statuses of responses that have no body (RFC 9110 sections 15.3.5 and 15.4.5)."""

log: Final = structlog.get_logger(__name__)


class TooManyPipelined(Exception):
    """There are as many requests behind the present one as may be."""


class Request:
    """A request whose head has come; its body may follow."""

    __slots__ = (
        "_body",
        "awaits_continue",
        "complete",
        "ended",
        "headers",
        "keep_alive",
        "method",
        "path",
        "query",
        "raw_path",
        "taken",
        "version",
    )

    def __init__(
        self,
        method: str,
        url: bytes,
        version: str,
        headers: Headers,
        *,
        keep_alive: bool,
        awaits_continue: bool,
    ) -> None:
        self.method = method
        self.path, self.raw_path, self.query = _target(url)
        """The path as text, as it came, and the query without its question mark."""
        self.version = version
        self.headers = headers
        """The names in lower case."""
        self.keep_alive = keep_alive
        """Whether the connection outlives the response."""
        self.awaits_continue = awaits_continue
        """Whether the client waits for a 100 before it sends the body (RFC 9110 section 10.1.1)."""
        self.complete = False
        """Whether all of the body has come."""
        self.taken = False
        """Whether the exchange has all of the body."""
        self.ended = False
        """Whether the response is complete."""
        self._body: list[bytes] = []

    def receive(self, data: bytes) -> None:
        """Keep a piece of the body until `take`."""
        self._body.append(data)

    def take(self) -> bytes:
        """Return what of the body has come since it was taken last."""
        pieces = self._body
        if not pieces:
            return b""
        self._body = []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @property
    def held(self) -> int:
        """How many bytes of the body were not taken yet."""
        return sum(map(len, self._body))


class Exchange(Protocol):
    """Serves one request. Called from the transport's callbacks; must not block."""

    def on_body(self, data: bytes, *, complete: bool) -> None:
        """Take the next piece of the body, which may be empty, and whether that was all."""

    def on_writable(self) -> None:
        """Go on writing: the client has caught up."""

    def on_client_gone(self) -> None:
        """End: the client has closed its connection."""

    def on_shutdown(self) -> None:
        """End now, in words of its own: the balancer stops."""


Handler = Callable[[Request, "ClientConnection"], Exchange]
"""Begins to serve a request."""


class ClientConnection:
    """A client's connection, for one request after another (uvicorn's `http` protocol).

    It is an `asyncio.Protocol` in all but the base class, which would keep it from being
    compiled. The exchange that serves the present request writes its response by `respond`,
    or by `start`, `write` and `finish`; requests that come meanwhile wait for their turn.

    - Trailers of a request are dropped (RFC 9110 section 6.5.1).
    - It has no timer of its own, to be set and cancelled with each request: the server calls
      `check_deadlines` now and then.
    - What it keeps of a client has bounds: the head of a request, requests that are pipelined.
    """

    __slots__ = (
        "_awaits_continue",
        "_body_until",
        "_chunked",
        "_connections",
        "_current",
        "_exchange",
        "_halted_since",
        "_handler",
        "_head_since",
        "_headers",
        "_loop",
        "_moved",
        "_newest",
        "_parser",
        "_primes",
        "_reading",
        "_started",
        "_unparsed",
        "_unsent",
        "_until_close",
        "_url",
        "_waiting",
        "_waits_since",
        "paused",
        "peer",
        "scheme",
        "server_state",
        "transport",
        "writable",
    )

    def __init__(
        self,
        handler: Handler,
        connections: Connections,
        config: Any,
        server_state: Any,
        app_state: Any,
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._handler = handler
        self._connections = connections
        self._loop = loop = _loop or asyncio.get_running_loop()
        self.server_state = server_state
        """uvicorn's: the connections and tasks that it waits for when it stops."""
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.peer = ""
        """The client's address; empty where it has none."""
        self.scheme = "http"
        self.paused = False
        """Whether reading is paused."""
        self.writable = True
        """Whether the client takes bytes as fast as they are written."""
        self._parser: httptools.HttpRequestParser | None = _parser(self)
        self._primes = False
        """Whether the parser is given a head that was parsed before."""
        self._url = b""
        self._headers: Headers = []
        self._head_since = 0.0
        """When the first byte came of a head that is not there yet."""
        self._reading = 0
        """How many bytes came last."""
        self._awaits_continue = False
        self._newest: Request | None = None
        """The request whose head came last."""
        self._waiting: list[Request] = []
        self._current: Request | None = None
        """The request that is served."""
        self._exchange: Exchange | None = None
        self._started = self._chunked = self._until_close = False
        self._waits_since: float | None = loop.time()
        self._body_until = 0.0
        """Until when the rest of a body must come; each piece of it gives it more time."""
        """Since when we wait for a request, or for more of one, by the loop's time."""
        self._moved = False
        """Whether a head came to its end, or a piece of a body came."""
        self._unparsed = 0
        """How many bytes came since."""
        self._halted_since: float | None = None
        """Since when the client has taken nothing of what it should."""
        self._unsent = 0
        """How many bytes waited for it then."""

    # What an exchange asks for

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """Write a whole response; the headers are without a length."""
        request = self._begin_response()
        lines = [STATUS_LINES[status]]
        for name, value in headers:
            lines.append(b"%b: %b\r\n" % (name, value))
        if not request.keep_alive:
            lines.append(b"connection: close\r\n")
        if status in BODILESS:
            lines.append(b"\r\n")
        else:
            lines.append(b"content-length: %d\r\n\r\n" % len(body))
            if request.method != "HEAD":
                lines.append(body)
        self.transport.write(b"".join(lines))
        self._end_response(request)

    def start(self, status: int, headers: Headers, body: bytes = b"") -> bool:
        """Write the head of a response and the beginning of its body; do as `write`.

        The body's length is told by a header, or it comes in chunks; clients that speak
        HTTP/1.0 know neither, and theirs ends with the connection (RFC 9112 section 6.3).
        """
        request = self._begin_response()
        lines = [STATUS_LINES[status]]
        sized = request.method == "HEAD" or status in BODILESS
        for name, value in headers:
            lines.append(b"%b: %b\r\n" % (name, value))
            if name == b"content-length":
                sized = True
        self._chunked = not sized and request.version == "1.1"
        self._until_close = not sized and not self._chunked
        if self._chunked:
            lines.append(b"transfer-encoding: chunked\r\n")
        if not request.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        if body:
            lines.append(b"%x\r\n%b\r\n" % (len(body), body) if self._chunked else body)
        self.transport.write(b"".join(lines))
        return self.writable

    def write(self, data: bytes) -> bool:
        """Write more of the body, and return whether the client keeps up.

        Where it does not, the exchange should pause until `on_writable`.
        """
        if data:
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        return self.writable

    def finish(self, data: bytes = b"") -> None:
        """Write the last of the body."""
        request = self._current
        assert request is not None
        if self._chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        if data:
            self.transport.write(data)
        self._end_response(request)

    def abort(self) -> None:
        """Close the connection, so that the response does not look complete."""
        self._exchange = None
        if self._until_close:  # only a reset tells this end from a complete response's
            accepted = self.transport.get_extra_info("socket")
            if accepted is not None:
                off = struct.pack("ii", 1, 0)
                with contextlib.suppress(OSError):
                    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, off)
            self.transport.abort()
        else:
            self.transport.close()

    def send_continue(self) -> None:
        """Ask for the body, if the client waits for that."""
        request = self._current
        if request is not None and request.awaits_continue:
            request.awaits_continue = False
            if not request.complete and not request.held:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def pause(self) -> None:
        """Read nothing more for now: the body goes where it is taken more slowly."""
        if not self.paused and not self.transport.is_closing():
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        if self.paused:
            self.paused = False
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def take_over(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Hand the connection over to another protocol."""
        self._exchange = self._current = None
        self._parser = None  # it refers to us
        self.server_state.connections.discard(self)
        self._connections.discard(self)
        self.paused = False
        self.transport.resume_reading()
        self.transport.set_protocol(protocol)
        return self.transport

    # What the server asks for

    @property
    def idle_since(self) -> float | None:
        """Since when there is no request, by the loop's time; None while there is one."""
        return self._waits_since if self._current is None and not self._waiting else None

    def close(self) -> None:
        """Close a connection that has no request."""
        self.transport.close()

    def shutdown(self) -> None:
        """Close the connection after the present response (called by uvicorn)."""
        if self._current is None and not self._waiting:
            self.transport.close()
        else:
            for request in self._waiting:
                request.keep_alive = False
            if self._current is not None:
                self._current.keep_alive = False

    def cut_short(self) -> None:
        """Have the present request end now, in its own words."""
        self._waiting.clear()
        if self._exchange is not None:
            self._exchange.on_shutdown()

    def check_deadlines(self, now: float, *, keep_alive: float, silence: float) -> None:
        """End what has come to a standstill; all times are in seconds.

        A connection may be idle for `keep_alive` after a response, and the head of a request
        take `HEAD_SECONDS`, however many pieces it comes in. For more of its body, or until the
        client takes more of the response, we wait for `silence`: somebody else could be served
        in that time. All of a body has `BODY_SECONDS`, and as long as it takes at `LEAST_RATE`.
        """
        if self._waits_since is not None:
            newest = self._newest
            if newest is None or newest.complete or newest.ended:
                if self._unparsed and now - self._head_since > HEAD_SECONDS:
                    self._reject(408, f"the head did not come within {HEAD_SECONDS:g} s")
                elif now - self._waits_since > keep_alive:
                    self.transport.close()
            elif self.paused or newest.awaits_continue:
                self._waits_since = now  # we are the ones who do not read
                self._body_until = max(self._body_until, now + BODY_SECONDS)
            else:
                self._check_body(now, now - self._waits_since, silence)
        if self._halted_since is not None:
            unsent = self.transport.get_write_buffer_size()
            if unsent < self._unsent:
                self._unsent, self._halted_since = unsent, now
            elif now - self._halted_since > silence:
                self.transport.abort()  # to close would be to wait for the client

    def _check_body(self, now: float, silent: float, silence: float) -> None:
        """End a request whose body comes too slowly."""
        if silent > silence:
            self._reject(408, f"nothing more of the body came within {silence:g} s")
        elif now > self._body_until:
            self._reject(408, f"the body came at less than {LEAST_RATE} bytes a second")
        else:  # what came fast at first is no credit for ever
            self._body_until = min(self._body_until, now + max(silence, BODY_SECONDS))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.server_state.connections.add(self)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.peer = str(peer[0]).removeprefix("::ffff:")  # RFC 4291 section 2.5.5.2
        if transport.get_extra_info("sslcontext") is not None:
            self.scheme = "https"
        if not self._connections.add(self):
            self._reject(503, "there are as many connections as may be")

    def connection_lost(self, error: Exception | None) -> None:
        self.server_state.connections.discard(self)
        self._connections.discard(self)
        self._parser = None  # it refers to us
        self._waiting.clear()
        self._let_go()

    def eof_received(self) -> bool:
        return False  # a client that closes its half has left

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            return
        self._reading = len(data)
        if len(data) >= TURN and not self.paused:
            rest(self.transport, self._read_on)
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            self._on_parser_error(error)
            return
        if not self._moved:
            self._count(data)
            return
        self._moved = False
        self._unparsed = 0
        newest = self._newest
        if newest is not None and not newest.ended:
            if newest.complete:
                self._waits_since = None
            else:
                self._waits_since = self._loop.time()
                self._body_until += len(data) / LEAST_RATE
        if self._current is None:
            self._serve_next()
        else:
            self._pass_body_on(self._current)

    def pause_writing(self) -> None:
        self.writable = False
        self._halted_since = self._loop.time()
        self._unsent = self.transport.get_write_buffer_size()

    def resume_writing(self) -> None:
        self.writable = True
        self._halted_since = None
        if self._exchange is not None:
            self._exchange.on_writable()

    # httptools

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []
        self._awaits_continue = False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._awaits_continue = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._primes:
            return
        parser = self._parser
        assert parser is not None
        version = parser.get_http_version()
        check_head(version, self._headers)
        if self._unparsed + self._reading > HEAD_LIMIT:
            check_size(self._url, self._headers)
        self._moved = True
        self._newest = request = Request(
            parser.get_method().decode("ascii"),
            self._url,
            version,
            self._headers,
            keep_alive=version == "1.1" and parser.should_keep_alive(),
            awaits_continue=self._awaits_continue,
        )
        self._headers = []  # where trailers go
        if len(self._waiting) >= PIPELINE_LIMIT:
            raise TooManyPipelined(f"more than {PIPELINE_LIMIT} requests wait for their turn")
        self._waiting.append(request)

    def on_body(self, body: bytes) -> None:
        self._moved = True
        newest = self._newest
        if newest is not None and not newest.ended:
            newest.receive(body)
            # Until a request's turn we read on, to notice when the client leaves.
            if self._current not in (None, newest) and newest.held > BODY_AHEAD:
                self.pause()

    def on_message_complete(self) -> None:
        if self._newest is not None:
            self._moved = True
            self._newest.complete = True

    # Inside

    def _count(self, data: bytes) -> None:
        """Count a piece of a head that is not there yet."""
        if not self._unparsed:
            if not data.strip(b"\r\n"):
                return  # empty lines before a request say nothing (RFC 9112 section 2.2)
            self._head_since = self._loop.time()
        self._unparsed += len(data)
        if self._unparsed > HEAD_LIMIT:
            self._reject(431, f"the head is longer than {HEAD_LIMIT} bytes")

    def _read_on(self) -> None:
        """Go on reading after the others had their turn."""
        if self._parser is not None and not self.paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _parse(self, data: bytes) -> None:
        """Parse what a client sends, behind a head that asks for an upgrade as well.

        The request is served as any other (RFC 9110 section 7.8), and may have a body as any
        other: Java's client sends it with `Upgrade: h2c`. But httptools takes what follows
        such a head for another protocol or the next request, which might be smuggled in so.

        Raises:
            HttpParserError: it is not HTTP.
        """
        while self._parser is not None:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._expect_body()
            else:
                return

    def _expect_body(self) -> None:
        """Have a parser that is where the body of the newest request begins, if it has one."""
        newest = self._newest
        assert newest is not None
        framing = [pair for pair in newest.headers if pair[0] in FRAMING]
        if framing:
            newest.complete = False
            lines = [b"POST / HTTP/%b\r\n" % newest.version.encode()]
            lines += [b"%b: %b\r\n" % pair for pair in framing]
            self._parser = parser = _parser(self)
            self._primes = True
            parser.feed_data(b"".join([*lines, b"\r\n"]))
            self._primes = False

    def _on_parser_error(self, error: httptools.HttpParserError) -> None:
        in_callback = isinstance(error, httptools.HttpParserCallbackError)
        cause = error.__context__ if in_callback else error
        if isinstance(cause, TooManyPipelined):
            self._reject(400, str(cause))
        elif isinstance(cause, BadHead):
            self._reject(cause.status, str(cause))
        elif isinstance(cause, httptools.HttpParserError):
            self._reject(400, "this is not HTTP")
        else:
            log.error("client.failed", client=self.peer, exc_info=cause)
            self._reject(500, "the balancer failed to read this")

    def _serve_next(self) -> None:
        """Begin with the next request, if it is there and none is served."""
        if self._current is not None or not self._waiting or self.transport.is_closing():
            return
        self._current = request = self._waiting.pop(0)
        self._started = self._chunked = self._until_close = False
        if request.complete:
            self._waits_since = None
        else:
            self._waits_since = self._loop.time()
            self._body_until = self._waits_since + BODY_SECONDS
        self.resume()
        exchange = self._handler(request, self)
        if not request.ended:
            self._exchange = exchange
            self._pass_body_on(request)

    def _pass_body_on(self, request: Request) -> None:
        """Pass on to the exchange what of the body has come."""
        exchange = self._exchange
        if exchange is None or request.taken:
            return
        request.taken = request.complete
        body = request.take()
        if body or request.complete:
            exchange.on_body(body, complete=request.complete)

    def _begin_response(self) -> Request:
        request = self._current
        assert request is not None
        assert not self._started, "there is a response already"
        self._started = True
        if not request.complete:
            # Nobody knows whether the rest of its body or another request comes next, least of
            # all where it expected a 100 (RFC 9110 section 10.1.1).
            request.keep_alive = False
        return request

    def _end_response(self, request: Request) -> None:
        """Go on to the next request, or close the connection."""
        request.ended = True
        self._current = self._exchange = None
        self.server_state.total_requests += 1
        if not request.keep_alive:
            self._waiting.clear()
            if request.complete:
                self.transport.close()
            else:
                self._linger()
            return
        self.resume()
        self._waits_since = self._loop.time()
        if self._waiting:
            self._loop.call_soon(self._serve_next)

    def _reject(self, status: int, message: str) -> None:
        """Close the connection; with an error in OpenAI's form where a response may stand now."""
        # Mostly no request has begun yet that would have a line of its own.
        log.warning("client.rejected", client=self.peer, status=status, reason=message)
        current = self._current
        if current is None or (not current.complete and not self._started):
            body = error_json(status, "invalid_request_error", message)
            self.transport.write(
                STATUS_LINES[status] + b"content-type: application/json\r\nconnection: close\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(body), body)
            )
        self._waiting.clear()
        self._waits_since = None
        self._parser = None
        self._let_go()
        self._linger()

    def _linger(self) -> None:
        me = cast("asyncio.Protocol", self)
        if not self.transport.is_closing() and self.transport.get_protocol() is me:
            LingeringClose(self.transport, me)

    def _let_go(self) -> None:
        """Let the present exchange know that its client is gone."""
        exchange, self._exchange = self._exchange, None
        self._current = None
        if exchange is not None:
            exchange.on_client_gone()


def _parser(connection: ClientConnection) -> httptools.HttpRequestParser:
    parser = httptools.HttpRequestParser(connection)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


def _target(url: bytes) -> tuple[str, bytes, bytes]:
    """Take a request's target apart (RFC 9112 section 3.2).

    Raises:
        HttpParserInvalidURLError: it is none.
    """
    return _known_target(url) if len(url) <= SHORT_TARGET else _take_apart(url)


def _take_apart(url: bytes) -> tuple[str, bytes, bytes]:
    if b"#" in url:
        raise httptools.HttpParserInvalidURLError("a fragment is for the client alone")
    parsed: Any = httptools.parse_url(url)  # its parts may be None
    path = parsed.path or b"/"
    try:
        return unquote(path.decode("ascii")), path, parsed.query or b""
    except UnicodeDecodeError:
        raise httptools.HttpParserInvalidURLError("bytes beyond ASCII") from None


_known_target: Final = functools.lru_cache(256)(_take_apart)
