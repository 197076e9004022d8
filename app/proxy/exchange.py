"""One request and its answer, between the client's ASGI channel and a server's connection."""

import asyncio
import functools
from collections.abc import Callable
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from app.apis.endpoints import api_of
from app.apis.errors import error_json, error_text
from app.downstream.connection import CLIENT, ClientProtocol
from app.proxy.eager import Eager
from app.proxy.headers import answer_headers, retry_after
from app.proxy.sse import EVENT_STREAM, JSON_LINES, EventStream, as_comment, as_event, content_type
from app.proxy.tunnel import Tunnel
from app.proxy.upload import ClientLeft, pass_body_on, read_body
from app.telemetry.record import Record
from app.telemetry.response_reader import Answer
from app.upstream.connection import Connection, Head
from app.upstream.pool import Pool

if TYPE_CHECKING:
    from app.proxy.model_request import ModelRequest, UnroutedRequest
    from app.routing.ledger import Lease

Message = dict[str, Any]
Fields = dict[bytes, bytes]
"""A request's headers; of one that came twice the last, but `X-Forwarded-For` as a whole."""


class CutShort(Exception):
    """The balancer stops, and the time for requests under way is over."""


class TurnedAway(Exception):
    """The server has turned the request away, and another has room: see `Exchange.next`."""


AWAY = frozenset({429, 502, 503, 504})
"""A server that has too much to do, loads, or is away behind its proxy (RFC 9110 section 15.6,
RFC 6585 section 4): another may take the request."""

Elsewhere = Callable[["Exchange"], "Lease | None"]
"""Finds another server for a request that was turned away."""


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
        "_cancelled",
        "_complete",
        "_connection",
        "_dialling",
        "_done",
        "_events",
        "_landed",
        "_pieces",
        "_receive",
        "_send",
        "_sender",
        "_tunnel",
        "_uploader",
        "client",
        "elsewhere",
        "fields",
        "lease",
        "next",
        "record",
        "repeats",
        "request",
        "rest",
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
        self.repeats = False
        """Whether it is sent once more: then to the same server, and to no other after that."""
        self.route: tuple[tuple[bytes, bytes], ...] = ()
        """Headers that tell the client where its request went."""
        self.request: ModelRequest | UnroutedRequest | None = None
        """What may have to be sent once more, until an answer begins."""
        self.lease: Lease | None = None
        """The hold on the server, of an exchange without a task."""
        self.next: Lease | None = None
        """The hold on the next server, once this one has turned the request away."""
        self.elsewhere: Elsewhere | None = None
        self.rest = 0.0
        """Seconds that the server wants to be left alone."""
        self._receive = receive
        self._send = send
        self.client: ClientProtocol = scope["extensions"][CLIENT]
        self._done: asyncio.Future[None] | None = None
        self._landed: Landed | None = None
        self._connection: Connection | None = None
        self._cancelled: Connection | None = None
        self._dialling: asyncio.Task[Connection] | None = None
        self._uploader: Eager | None = None
        self._sender: Eager | None = None
        self._pieces: list[tuple[Head | None, bytes, bool]] = []
        self._tunnel: Tunnel | None = None
        self._complete = False
        self._events = EventStream()
        self._base = b""

    # The client's side

    async def read_body(self, limit: int) -> bytes:
        """Read the whole body; raises `BodyTooLarge` or `ClientLeft`."""
        return await read_body(self._receive, self.fields.get(b"content-length"), limit)

    def close(self) -> None:
        """Let go of both sides, on every way out."""
        if self.next is not None:
            self.next.release()
        self.client.unwatch(self)
        if self._dialling is not None:
            self._dialling.cancel()
        if self._uploader is not None:
            self._uploader.close()
        if self._sender is not None:
            self._sender.close()
        self.cancel()
        if self._tunnel is not None:
            self._tunnel.close()

    def cancel(self) -> None:
        """Tell the server to stop, if it is still at work."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._cancelled = connection
            connection.cancel()

    def release(self, lease: "Lease") -> None:
        """Give a lease back once the server has stopped, if it was told to."""
        self.cancel()
        cancelled, self._cancelled = self._cancelled, None
        if cancelled is not None and cancelled.lingers:
            lease.lingers = True
            cancelled.when_gone(lease.release)
        else:
            lease.release()

    def client_left(self) -> None:
        if self._landed is not None:
            self._end(ClientLeft())
        else:
            self.client.cancel(left=True)

    def cut_short(self) -> None:
        self.stopped = True
        self.cancel()
        if self._landed is None:
            self.client.cancel(left=False)
        elif not self._complete:
            self._end(CutShort())

    async def refuse(
        self, status: int, kind: str, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        """Answer with an error of ours, in OpenAI's form, or Ollama's to its own API."""
        self.record.status = status
        self.record.error = message
        ollama = api_of(self.record.endpoint).ollama
        body = error_text(message) if ollama else error_json(status, kind, message)
        if self._events.early:
            await self._send({"type": "http.response.body", "body": as_event(body)})
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
        """Begin an event stream before there is an answer, with a comment that clients skip."""
        events = self._events
        if not self.started:
            self.started = True
            events.begin()
            head = [
                (b"content-type", EVENT_STREAM),
                (b"cache-control", b"no-cache"),
                (b"x-request-id", self.record.id.encode()),
            ]
            await self._send({"type": "http.response.start", "status": 200, "headers": head})
        events.last = as_comment(comment)
        await self._send({"type": "http.response.body", "body": events.last, "more_body": True})

    # The server's side

    async def run(
        self,
        pool: Pool,
        head: bytes,
        body: bytes | None,
        *,
        fresh: bool = False,
        repeatable: bool = False,
        chunked: bool = False,
        upgrade: bool = False,
    ) -> None:
        """Send the request to a server and pass the answer on until its end.

        With `body` None it is streamed from the client as it comes, in chunks if `chunked`.
        `fresh` asks for a new connection; `repeatable` is content with any.

        Raises:
            UpstreamError: what went wrong at the server.
        """
        connection = await pool.connect(fresh=fresh, repeatable=repeatable)
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
            upload = pass_body_on(self._receive, connection, self.record, chunked=chunked)
            self._uploader = Eager(upload, self._stop_at_error)
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
        record, events = self.record, self._events
        if head is not None:
            if head.status in AWAY and self._turned_away(head, complete=complete):
                return
            head = self._begin(head)
        if events.misfit:
            self._gather(body, complete=complete)
            return
        if body and record.answer is not None:
            record.answer.passes(body)
            # Most pieces of a stream: nothing waits before them, and they are not the last.
            if head is None and not complete and self._flowing and self.client.pass_on(body):
                events.last = body
                return
        if head is not None and head.status == 101:
            self._open_tunnel(head, body)
        else:
            self._take(head, body, complete=complete)

    def _take(self, head: Head | None, body: bytes, *, complete: bool) -> None:
        """Pass a piece on: at once if it is the whole, else after those that wait."""
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
        self._cancelled, self._connection = self._connection, None
        self._end(error)

    async def break_off(self, status: int, kind: str, message: str) -> None:
        """Say in an event stream that the answer ends too early, if it stands between events.

        The openai package raises an error on such an event; a mere end of the stream it takes
        for the end of the answer. The caller must not end the answer as if it were complete.
        """
        if self._events.between_events and (self._flowing or self._sender is None):
            event = as_event(error_json(status, kind, message))
            await self._send({"type": "http.response.body", "body": event, "more_body": True})

    # Inside

    def _begin(self, head: Head) -> Head | None:
        """Take notice of an answer's beginning; None where the client has had one already."""
        self.request = None  # its body is as long as the prompt
        record = self.record
        record.first_byte = monotonic()
        record.status = head.status
        kind = content_type(head)
        streams, lines = kind.startswith(EVENT_STREAM), kind.startswith(JSON_LINES)
        record.stream = record.stream or streams or lines
        record.answer = Answer(streams=streams or lines, lines=lines)
        return self._events.go_on(head, streams=streams)

    def _turned_away(self, head: Head, *, complete: bool) -> bool:
        """Try another server, if one has room, since the client has got nothing yet."""
        self.rest = retry_after(head.headers, time())
        if self.elsewhere is None or self.request is None:
            return False
        self.record.status = head.status
        self.next = self.elsewhere(self)
        if self.next is None:
            return False
        if complete:
            self._connection = None  # it is kept
        else:
            self.cancel()
        self._end(TurnedAway())
        return True

    def _gather(self, body: bytes, *, complete: bool) -> None:
        """Tell an answer that cannot go on with the stream that was begun as its last event."""
        self._events.gather(body)
        if complete:
            self._connection = None
            self._pieces.append((None, self._events.gathered(), True))
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
                self._events.last = body
            # Even an empty piece makes uvicorn send the head.
            await self._send(
                {"type": "http.response.body", "body": body, "more_body": not complete}
            )

    def _passed_on(self, error: Exception | None) -> None:
        if error is not None or self._complete:
            self._end(error)
        elif self._connection is not None:
            self._connection.resume()

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
