"""One request and its answer, between the client's ASGI channel and a server's connection."""

import asyncio
import functools
import json
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from app.telemetry.answer import Answer
from app.telemetry.record import Record
from app.upstream.pool import Pool
from app.upstream.wire import Connection, Head
from app.web.client import CLIENT, ClientProtocol
from app.web.eager import Eager
from app.web.errors import error_json
from app.web.headers import answer_headers
from app.web.tunnel import Tunnel

if TYPE_CHECKING:
    from app.routing.ledger import Lease
    from app.web.model_request import ModelRequest, UnroutedRequest

MISFIT_LIMIT = 64 * 1024
"""Longest error of a server that is told within an event stream, in bytes, piece by piece."""

_BINDING = (b"content-length", b"content-encoding")
"""Headers that leave no room for bytes of ours in a body."""

Message = dict[str, Any]
Fields = dict[bytes, bytes]
"""A request's headers; of one that came twice the last, but `X-Forwarded-For` as a whole."""


class ClientLeft(Exception):
    """The client closed its connection."""


class CutShort(Exception):
    """The balancer stops, and the time for requests under way is over."""


class BodyTooLarge(Exception):
    """The body is longer than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit


Landed = Callable[["Exchange", Exception | None], None]
"""Hears that an exchange has ended, and by which error if any."""


class Exchange:
    """Carries one request to a server and the answer back (a `wire.Receiver`).

    Pieces of the answer are passed on from the connection's callback as they come. Where
    the client is slower than the server, the server is not read. A task that `run`s it is
    cancelled when the client leaves; without a task, after `begin`, the exchange ends.
    """

    __slots__ = (
        "_base",
        "_complete",
        "_connection",
        "_dialling",
        "_done",
        "_early",
        "_landed",
        "_last",
        "_misfit",
        "_pieces",
        "_receive",
        "_send",
        "_sender",
        "_takes_events",
        "_tunnel",
        "_uploader",
        "client",
        "fields",
        "lease",
        "record",
        "request",
        "route",
        "scope",
        "started",
        "stopped",
    )

    def __init__(
        self, scope: Message, receive: Any, send: Any, fields: Fields, record: Record
    ) -> None:
        self.scope = scope
        self.fields = fields
        self.record = record
        self.started = self.stopped = False
        self.route: tuple[tuple[bytes, bytes], ...] = ()
        """Headers that tell the client where its request went."""
        self.request: ModelRequest | UnroutedRequest | None = None
        """What may have to be sent once more, until an answer begins."""
        self.lease: Lease | None = None
        """The hold on the server, of an exchange without a task."""
        self._receive = receive
        self._send = send
        self.client: ClientProtocol = scope["extensions"][CLIENT]
        self._done: asyncio.Future[None] | None = None
        self._landed: Landed | None = None
        self._connection: Connection | None = None
        self._dialling: asyncio.Task[Connection] | None = None
        self._uploader: Eager | None = None
        self._sender: Eager | None = None
        self._pieces: list[tuple[Head | None, bytes, bool]] = []
        self._tunnel: Tunnel | None = None
        self._complete = False
        self._last = b""
        self._base = b""
        self._early = False
        """Whether an event stream was begun before there was an answer."""
        self._takes_events = False
        """Whether what was begun is an event stream that an event of ours can stand in."""
        self._misfit = False
        """Whether the answer is none that could go on with it: then its text is gathered."""

    # The client's side

    async def read_body(self, limit: int) -> bytes:
        """Read the whole body.

        Raises:
            BodyTooLarge: it is longer than `limit` bytes.
            ClientLeft: the client closed its connection.
        """
        length = self.fields.get(b"content-length")
        if length is not None and int(length) > limit:
            raise BodyTooLarge(limit)
        parts = []
        size, more = 0, True
        while more and size <= limit:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
        if size > limit:
            raise BodyTooLarge(limit)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Let go of both sides, on every way out."""
        self.client.unwatch(self)
        if self._dialling is not None:
            self._dialling.cancel()
        if self._uploader is not None:
            self._uploader.close()
        if self._sender is not None:
            self._sender.close()
        if self._connection is not None:
            self._connection.abort()
        if self._tunnel is not None:
            self._tunnel.close()

    def client_left(self) -> None:
        if self._landed is not None:
            self._end(ClientLeft())
        else:
            self.client.cancel(left=True)

    def cut_short(self) -> None:
        self.stopped = True
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
        if self._landed is None:
            self.client.cancel(left=False)
        elif not self._complete:
            self._end(CutShort())

    async def refuse(
        self, status: int, kind: str, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        """Answer with an error of ours, in OpenAI's form."""
        self.record.status = status
        self.record.error = message
        body = error_json(status, kind, message)
        if self._early:
            await self._send({"type": "http.response.body", "body": b"data: " + body + b"\n\n"})
            return
        self.started = True
        head = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", self.record.id.encode()),
            *self.route,
            *headers,
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": head})
        await self._send({"type": "http.response.body", "body": body})

    async def keep_alive(self, comment: str) -> None:
        """Begin an event stream before there is an answer, with a comment that clients skip.

        A comment is a line that begins with a colon (WHATWG HTML, section 9.2.6).
        """
        if not self.started:
            self.started = self._early = self._takes_events = True
            head = [
                (b"content-type", b"text/event-stream"),
                (b"cache-control", b"no-cache"),
                (b"x-request-id", self.record.id.encode()),
            ]
            await self._send({"type": "http.response.start", "status": 200, "headers": head})
        self._last = f": {comment}\n\n".encode()
        await self._send({"type": "http.response.body", "body": self._last, "more_body": True})

    # The server's side

    async def run(
        self,
        pool: Pool,
        head: bytes,
        body: bytes | None,
        *,
        fresh: bool = False,
        chunked: bool = False,
        upgrade: bool = False,
    ) -> None:
        """Send the request to a server and pass the answer on until its end.

        With `body` None it is streamed from the client as it comes, in chunks if `chunked`.
        `fresh` asks for a new connection.

        Raises:
            UpstreamError: what went wrong at the server.
        """
        connection = await pool.connect(fresh=fresh)
        self._done = done = self.client.loop.create_future()
        self._note_sending(pool, body)
        connection.request(
            head + body if body else head,
            self,
            head_only=self.scope["method"] == "HEAD",
            unfinished=body is None,
            upgrade=upgrade,
        )
        self._connection = connection
        if body is None:
            self._uploader = Eager(self._stream_body(connection, chunked), self._stop_at_error)
        await done

    def begin(
        self, connection: Connection, pool: Pool, head: bytes, body: bytes, landed: Landed
    ) -> None:
        """Do as `run`, over a connection that is there, and call `landed` in the end.

        Its error is `ClientLeft` where that is why it ended.
        """
        self._note_sending(pool, body)
        connection.request(head + body, self)
        self._connection = connection
        self._landed = landed
        self.client.watcher = self

    def dial(self, pool: Pool, head: bytes, body: bytes, landed: Landed) -> None:
        """Do as `begin`, over a connection that has to be made: by a task that ends with that."""
        self._landed = landed
        self.client.watcher = self
        self._dialling = self.client.loop.create_task(pool.connect(fresh=True))
        self._dialling.add_done_callback(functools.partial(self._dialled, pool, head, body))

    def _dialled(
        self, pool: Pool, head: bytes, body: bytes, dialling: "asyncio.Task[Connection]"
    ) -> None:
        self._dialling = None
        if dialling.cancelled():
            return
        try:
            connection = dialling.result()
            if self._landed is None:  # it ended in this very moment
                connection.abort()
            else:
                self.begin(connection, pool, head, body, self._landed)
        except Exception as error:  # noqa: BLE001 - whoever landed it decides
            self._end(error)

    def answer(self, head: Head | None, body: bytes, *, complete: bool) -> None:
        record = self.record
        if head is not None:
            head = self._begin(head)
        if self._misfit:
            self._gather(body, complete=complete)
            return
        if body and record.answer is not None:
            record.answer.passes(body)
            # Most pieces of a stream: nothing waits before them, and they are not the last.
            if head is None and not complete and self._flowing and self.client.pass_on(body):
                self._last = body
                return
        if head is not None and head.status == 101:
            self._open_tunnel(head, body)
            return
        if complete:
            self._connection = None  # it may serve the next request already
            if head is not None and self._uploader is None and self._reply(head, body):
                return
        self._pieces.append((head, body, complete))
        if self._sender is None or self._flowing:
            self._sender = Eager(self._pass_on(), self._passed_on)
            if not self._sender.ended and self._connection is not None:
                self._connection.pause()

    @property
    def _flowing(self) -> bool:
        """Whether the answer's beginning was written, and nothing waits to be."""
        return self._sender is not None and self._sender.ended

    def failed(self, error: Exception) -> None:
        self._connection = None
        self._end(error)

    async def break_off(self, status: int, kind: str, message: str) -> None:
        """Say in an event stream that the answer ends too early, if it stands between events.

        The openai package raises an error on such an event; a mere end of the stream it takes
        for the end of the answer. The caller must not end the answer as if it were complete.
        """
        between_events = self._misfit or self._last.endswith((b"\n\n", b"\r\n\r\n"))
        if self._takes_events and between_events and (self._flowing or self._sender is None):
            event = b"data: " + error_json(status, kind, message) + b"\n\n"
            await self._send({"type": "http.response.body", "body": event, "more_body": True})

    # Inside

    def _begin(self, head: Head) -> Head | None:
        """Take notice of an answer's beginning; None where the client has had one already."""
        self.request = None  # its body is as long as the prompt
        record = self.record
        record.first_byte = monotonic()
        record.status = head.status
        streams = _is_event_stream(head)
        record.stream = record.stream or streams
        record.answer = Answer(streams=streams)
        if not self._early:
            self._takes_events = streams and not any(name in _BINDING for name, _ in head.headers)
            return head
        self._misfit = head.status != 200 or not streams
        return None

    def _gather(self, body: bytes, *, complete: bool) -> None:
        """Tell an answer that cannot go on with the stream that was begun as its last event."""
        self._last += body[:MISFIT_LIMIT]
        if complete:
            self._connection = None
            self._pieces.append((None, _as_event(self._last), True))
            self._sender = Eager(self._pass_on(), self._passed_on)

    def _note_sending(self, pool: Pool, body: bytes | None) -> None:
        self._base = pool.base
        self.record.sent = monotonic()
        self.record.size = len(body) if body else 0

    def _open_tunnel(self, head: Head, early: bytes) -> None:
        connection, self._connection = self._connection, None
        assert connection is not None
        self.client.unwatch(self)
        self._tunnel = Tunnel(connection, ended=lambda: self._end(None))
        self._tunnel.open(self.client.take_over, head, early)

    def _reply(self, head: Head, body: bytes) -> bool:
        if not self.client.reply(head.status, self._headers(head, whole=True), body):
            return False
        self.started = self._complete = True
        self.client.unwatch(self)
        self._end(None)
        return True

    def _headers(self, head: Head, *, whole: bool = False) -> list[tuple[bytes, bytes]]:
        headers = answer_headers(head.status, head.headers, base=self._base, whole=whole)
        headers.append((b"x-request-id", self.record.id.encode()))
        headers.extend(self.route)
        return headers

    async def _pass_on(self) -> None:
        while self._pieces:
            head, body, complete = self._pieces.pop(0)
            if head is not None:
                headers = self._headers(head)
                self.started = True
                await self._send(
                    {"type": "http.response.start", "status": head.status, "headers": headers}
                )
            if complete:
                self._complete = True
                self.client.unwatch(self)
                if self._uploader is not None:
                    self._uploader.close()
            if body:
                self._last = body
            # Even an empty piece makes uvicorn send the head.
            await self._send(
                {"type": "http.response.body", "body": body, "more_body": not complete}
            )

    def _passed_on(self, error: Exception | None) -> None:
        if error is not None or self._complete:
            self._end(error)
        elif self._connection is not None:
            self._connection.resume()

    async def _stream_body(self, connection: Connection, chunked: bool) -> None:
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return
            data = message.get("body", b"")
            self.record.size += len(data)
            more = message.get("more_body", False)
            if chunked:
                data = (b"%x\r\n%b\r\n" % (len(data), data)) if data else b""
                if not more:
                    data += b"0\r\n\r\n"
            if data or not more:
                connection.send(data, last=not more)
                await connection.drain()

    def _stop_at_error(self, error: Exception | None) -> None:
        if error is not None:
            self._end(error)

    def _end(self, error: Exception | None) -> None:
        if self._landed is not None:
            landed, self._landed = self._landed, None
            landed(self, error)
            return
        if self._done is None or self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)


def _as_event(gathered: bytes) -> bytes:
    """Write an answer that is no event stream as an event: an error, in OpenAI's form."""
    text = gathered.partition(b"\n\n")[2].decode(errors="replace")
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        told = None
    if isinstance(told, dict) and "error" in told:
        error = json.dumps(told).encode()
    else:
        error = error_json(502, "upstream_error", text)
    return b"data: " + error + b"\n\n"


def _is_event_stream(head: Head) -> bool:
    for name, value in head.headers:
        if name == b"content-type":
            return value.startswith(b"text/event-stream")
    return False
