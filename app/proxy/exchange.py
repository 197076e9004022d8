"""One request and its response, between a client's connection and a server's."""

import asyncio
import functools
import re
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import Enum
from time import monotonic, time
from typing import Final

import structlog

from app.apis.context import STATUSES, overflow
from app.apis.dialects import OLLAMA, OPENAI
from app.apis.encodings import DecodedTooLong, UnknownEncoding, decoded
from app.apis.endpoints import RESPONSES_PATH, api_of
from app.apis.json_body import BadRequest
from app.apis.paths import MONITOR
from app.apis.structure import LARGE
from app.downstream.connection import BODILESS, ClientConnection, Request
from app.keys.allowance import Allowance
from app.keys.key_ring import Key
from app.proxy import error_responses
from app.proxy.buffer import Buffer
from app.proxy.cors import Headers
from app.proxy.error_responses import ErrorResponse
from app.proxy.headers import (
    UNBUFFERED,
    instead_header,
    response_headers,
    retry_after,
    route_headers,
    unbuffered,
)
from app.proxy.hints import UnknownServer, heed, hints
from app.proxy.keepalive import Keepalive
from app.proxy.model_request import ModelRequest, UnroutedRequest
from app.proxy.owners import BEGINNING, Owners
from app.proxy.queue import WAIT, RequestQueue
from app.proxy.queued_request import QueuedRequest, QueueFull, QueueTimeout, Rejected, Turn
from app.proxy.realtime import with_model
from app.proxy.request_heads import Fields, RequestHeads
from app.proxy.response_edits import JSON, ResponseEdits
from app.proxy.retries import Retry, next_try
from app.proxy.sse import EventStream, content_type
from app.proxy.tunnel import Tunnel
from app.routing.balancer import Balancer, Refusal
from app.routing.catalog import listed, offered
from app.routing.ledger import Fault as ServerFault
from app.routing.ledger import Lease
from app.routing.observations import CacheReuse, ContextSeen, ProbeFailed
from app.routing.saved_prompts import SlotFiles
from app.telemetry.record import Fault, Outcome, Record
from app.telemetry.response_reader import ResponseReader
from app.upstream.connection import Connection, Head
from app.upstream.errors import Broken, OutOfSockets, PlaceTaken, Unreachable, UpstreamError
from app.upstream.pool import Pool
from app.upstream.slot_files import act

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
"""Methods that may be repeated (RFC 9110 section 9.2.2)."""

NO_PAGE: Final = frozenset({404, 405, 501, 502, 503, 504})
"""What a server responds that has no page to show, or whose proxy cannot reach it."""

AWAY: Final = frozenset({429, 502, 503, 504})
"""A server that has too much to do, loads, or is away behind its proxy (RFC 9110 section 15.6,
RFC 6585 section 4): another may take the request."""

JOINED: Final = 64 * 1024
"""Up to how many bytes a body is sent together with the head: to copy a longer one costs more
than a system call."""

CHUNK: Final = 1024 * 1024
"""Pieces of a body are joined to chunks of so many bytes at least. The system takes back such ones
as soon as they are free, see `return_memory`; small ones would stay with us."""

ERROR_LIMIT: Final = 64 * 1024
"""How much of a server's error is read before it is passed on, in bytes."""

NO_MODEL: Final = "(none)"
"""Stands in telemetry for the model of a request that names none."""

log: Final = structlog.get_logger(__name__)

Read = Callable[[str, bytes, str, Fields], ModelRequest | UnroutedRequest]
"""Reads a model request: its path, its body, the client's address, its headers."""


class State(Enum):
    """How far an exchange has come."""

    READING = "reading"
    """The body of a model request is not there yet."""
    PARSING = "parsing"
    """The body is long, and is read beside the event loop."""
    REFUSED = "refused"
    """An error response follows, but not at once."""
    QUEUED = "queued"
    """It waits for a place at a server."""
    DIALLING = "dialling"
    """A connection to the server is made."""
    SENT = "sent"
    """The request is at the server, or on its way."""
    RESPONDING = "responding"
    """The client gets a server's response."""
    ENDED = "ended"


Enter = Callable[[Lease, float], Awaitable[bool]]
"""Takes a place after so many seconds of waiting; whether there was one."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all exchanges share. `keepalive` is in seconds, see `Proxy`."""

    balancer: Balancer
    pools: Mapping[str, Pool]
    queue: RequestQueue
    heads: RequestHeads
    read: Read
    parser: Executor
    max_body_bytes: int
    buffer: Buffer
    tells_route: bool
    keepalive: float
    finished: Callable[[Record], None]
    in_flight: dict[str, int]
    owners: Owners
    underway: "set[Exchange]"
    """The model requests that have not ended."""
    enter: "Enter | None"
    """Takes a place for all replicas to see; None where there is one balancer."""


class Exchange:
    """Carries one request to a server and the response back, by callbacks alone.

    It is a `downstream.connection.Exchange` and an `upstream.connection.Receiver`, and waits
    in the queue in between. A model request holds a lease from before it is sent until its
    response has ended. Whatever happens, `_end` is called once.

    Pieces of the response are passed on from the connection's callback as they come. Where
    the client is slower than the server, the server is not read, and the other way round.
    """

    __slots__ = (
        "_allowance",
        "_body",
        "_chunks",
        "_client",
        "_cors",
        "_dialling",
        "_edits",
        "_encoded",
        "_events",
        "_fields",
        "_held",
        "_held_size",
        "_keepalive",
        "_learns",
        "_lease",
        "_loop",
        "_loose",
        "_lost_since",
        "_model_request",
        "_out",
        "_parsing",
        "_pool",
        "_queued",
        "_queued_at",
        "_record",
        "_refusal",
        "_repeated",
        "_request",
        "_retry_after",
        "_session",
        "_shared",
        "_started",
        "_streams_body",
        "_tunnel",
        "_turned_away",
        "_unreachable",
        "_upgrades",
        "_upstream",
        "_whole",
        "state",
    )

    def __init__(
        self,
        shared: Shared,
        request: Request,
        client: ClientConnection,
        fields: Fields,
        record: Record,
        cors: Headers | None = None,
    ) -> None:
        """`cors` is what lets a page of another site read the response; None for no page."""
        self.state = State.READING
        self._shared = shared
        self._request = request
        self._client = client
        self._fields = fields
        self._record = record
        self._cors = cors
        self._model_request: ModelRequest | UnroutedRequest | None = None
        """What may have to be sent once more, until a response begins."""
        self._out = b""
        """The request as it was sent, for as long; a long body stands apart."""
        self._body = b""
        self._encoded = b""
        """The body as it came, where it is compressed, for as long."""
        self._held: list[bytes] = []
        """What of the body has come, until it can be read or sent."""
        self._held_size = 0
        """How much of the shared buffer it takes, until a response begins."""
        self._chunks = self._loose = 0
        """How many of `_held` are joined pieces, and how many bytes stand behind them."""
        self._streams_body = self._upgrades = False
        self._lease: Lease | None = None
        self._pool: Pool | None = None
        self._upstream: Connection | None = None
        self._parsing: asyncio.Future[ModelRequest | UnroutedRequest] | None = None
        self._dialling: asyncio.Task[Connection] | None = None
        self._queued: QueuedRequest | None = None
        self._queued_at = 0.0
        self._lost_since = 0.0
        """Since when it has waited, where another replica was quicker when it had its turn."""
        self._repeated = False
        """Whether it was sent twice: then to the same server, and to no other after that."""
        self._turned_away = False
        """Whether a server has turned it away, and another was found."""
        self._whole: tuple[Head, bytes] | None = None
        """A response that is read as a whole, until all of it has come."""
        self._edits = ResponseEdits()
        self._allowance: Allowance | None = None
        """What the request counts on, of the client's key."""
        self._unreachable: Unreachable | None = None
        """The last server's error, where no connection came about."""
        self._retry_after = 0.0
        """Seconds that the server wants to be left alone."""
        self._started = False
        """Whether a response to the client has begun."""
        self._events = EventStream(api_of(record.endpoint).dialect)
        self._keepalive: Keepalive | None = None
        self._refusal: asyncio.TimerHandle | None = None
        """Ends a request that is refused, but not at once."""
        self._tunnel: Tunnel | None = None
        self._session = False
        """Whether it opens a WebSocket to a model."""
        self._learns: bytes | None = b"" if record.endpoint == RESPONSES_PATH else None
        """The beginning of a response that holds an id, until that is found."""

    # Beginnings

    def serve_model(self) -> None:
        """Begin with a request that makes a model work: its whole body is read first."""
        self._shared.underway.add(self)
        if self._request.complete:
            return  # what has come is measured as it is read
        length = self._fields.get(b"content-length")
        if length is not None and int(length) > self._shared.max_body_bytes:
            self.refuse(error_responses.body_too_large(self._shared.max_body_bytes))
        else:
            self._client.send_continue()

    def open_session(self, request: ModelRequest | UnroutedRequest) -> None:
        """Begin with a WebSocket to a model, which has a place at a server until it ends."""
        self._session = True
        self._shared.underway.add(self)
        self._record.ready = monotonic()
        self._on_request(request)

    def learn_id(self) -> None:
        """Remember which server makes what this asks for."""
        self._learns = b""

    def forward(self, server: str | None) -> None:
        """Begin with any other request: it goes to a server as it is, its body streamed."""
        if server is None:
            self.refuse(error_responses.unconfigured())
            return
        record, fields = self._record, self._fields
        record.fallback = server
        self._pool = pool = self._shared.pools[server]
        length = b"chunked" if b"transfer-encoding" in fields else fields.get(b"content-length")
        bodiless = length is None or length == b"0"
        self._streams_body = not bodiless
        self._upgrades = bodiless and fields.get(b"upgrade", b"").lower() == b"websocket"
        self._write_head(pool, length, b"websocket" if self._upgrades else None)
        # What may not be sent twice may not meet a connection that is about to be closed.
        self._send(pool, fresh=not self._repeatable)

    @property
    def _repeatable(self) -> bool:
        """Whether a server may get the request twice."""
        return not self._streams_body and not self._upgrades and self._request.method in IDEMPOTENT

    # Events of the client's connection

    def on_body(self, data: bytes, *, complete: bool) -> None:
        try:
            if self._streams_body:
                self._pass_body_on(data, complete=complete)
            elif self.state is State.READING:
                self._read_body(data, complete=complete)
        except Exception as error:  # noqa: BLE001 - logged, and the client is told
            self.on_failed(error)

    def on_writable(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()

    def on_client_gone(self) -> None:
        self._end("client_disconnect")

    def on_shutdown(self) -> None:
        self.refuse(error_responses.shutting_down())

    # A model request's way to a server

    def _read_body(self, data: bytes, *, complete: bool) -> None:
        held, shared, size = self._held, self._shared, len(data)
        if self._held_size + size > shared.max_body_bytes:
            self.refuse(error_responses.body_too_large(shared.max_body_bytes))
            return
        if not shared.buffer.take(size):
            self.refuse(error_responses.buffer_full(shared.buffer.limit))
            return
        held.append(data)
        self._held_size += size
        self._loose += size
        if self._loose >= CHUNK and len(held) > 1:
            held[self._chunks :] = [b"".join(held[self._chunks :])]
            self._chunks += 1
            self._loose = 0
        if complete:
            self._held = []
            self._read(held)

    def _read(self, held: list[bytes]) -> None:
        """Read the body; a long one beside the event loop, where others are served meanwhile."""
        record, shared = self._record, self._shared
        record.ready = monotonic()
        encoding = self._fields.get(b"content-encoding", b"")
        read: Read = shared.read
        if encoding:
            self._encoded = b"".join(held)
            held = [self._encoded]
            read = functools.partial(_decoded, read, encoding, shared.max_body_bytes)
        endpoint, identity, fields = record.endpoint, record.identity, self._fields
        if self._held_size > LARGE or encoding:  # a short one may become long
            self.state = State.PARSING
            loop = asyncio.get_running_loop()
            self._parsing = loop.run_in_executor(
                shared.parser, _parsed, read, held, endpoint, identity, fields
            )
            self._parsing.add_done_callback(self._on_parsed)
            return
        try:
            request = _parsed(read, held, endpoint, identity, fields)
        except BadRequest as error:
            self.refuse(error_responses.bad_request(str(error)))
        else:
            self._on_request(request)

    def _on_parsed(self, parsed: "asyncio.Future[ModelRequest | UnroutedRequest]") -> None:
        self._parsing = None
        if parsed.cancelled() or self.state is State.ENDED:
            return
        failure = parsed.exception()  # to raise it would tie it to this frame, body and all
        if isinstance(failure, BadRequest):
            self.refuse(error_responses.bad_request(str(failure)))
        elif isinstance(failure, UnknownEncoding):
            self.refuse(error_responses.unknown_encoding(str(failure)))
        elif isinstance(failure, DecodedTooLong):
            self.refuse(error_responses.body_too_large(self._shared.max_body_bytes))
        elif isinstance(failure, Exception):
            self.on_failed(failure)
        elif self._encoded and not self._hold(len(parsed.result().received)):
            self.refuse(error_responses.buffer_full(self._shared.buffer.limit))
        else:
            try:
                self._on_request(parsed.result())
            except Exception as error:  # noqa: BLE001 - logged, and the client is told
                self.on_failed(error)

    def _hold(self, size: int) -> bool:
        """Hold so many bytes more; False where there is no room for them."""
        if not self._shared.buffer.take(size):
            return False
        self._held_size += size
        return True

    def _on_request(self, request: ModelRequest | UnroutedRequest) -> None:
        record = self._record
        record.username = request.username
        record.session = request.session
        record.model = request.ask.model or NO_MODEL
        record.stream = request.streams
        record.tokens = request.tokens
        if record.key is not None and not self._is_allowed(record.key, request):
            return
        self._model_request = request
        if request.fallbacks:
            self._fall_back(request)
        if self._learns is not None and isinstance(request, ModelRequest) and request.previous:
            request.ask.only = self._shared.owners.of(request.previous) or ""
        self._events.model = request.named
        if hints(self._fields) and not self._heed(request):
            return
        if request.streams:
            self._begin_keepalive()
        self._place(request)

    def _heed(self, request: ModelRequest | UnroutedRequest) -> bool:
        """Take in which servers a request would like; or refuse it."""
        try:
            heed(request.ask, self._fields, self._shared.balancer.fleet.servers)
        except UnknownServer as error:
            self.refuse(error_responses.bad_request(str(error)))
            return False
        return True

    def _is_allowed(self, key: Key, request: ModelRequest | UnroutedRequest) -> bool:
        """Enter a request under its key; or refuse it, where the key does not allow it."""
        if not key.allows(request.ask.model):
            self.refuse(error_responses.model_closed(request.named))
            return False
        wait = key.allowance.enter(monotonic(), request.tokens)
        if wait is not None:
            self.refuse(error_responses.key_busy(key.name, wait))
            return False
        self._allowance = key.allowance
        return True

    def _fall_back(self, request: ModelRequest | UnroutedRequest) -> bool:
        """Want another model where no server is up that has the one that was asked for."""
        balancer, key = self._shared.balancer, self._record.key
        if isinstance(request, UnroutedRequest) or balancer.is_up(request.ask):
            return False
        for model in request.fallbacks:
            ask = request.asking_for(model)
            if balancer.is_up(ask) and (key is None or key.allows(model)):
                request.take(ask)
                self._record.asked_model = self._record.asked_model or self._record.model
                self._record.model = model
                return True
        return False

    def _place(self, request: ModelRequest | UnroutedRequest) -> None:
        self._go_on(request, self._shared.balancer.place(request.ask, self._record.failures))

    def _go_on(self, request: ModelRequest | UnroutedRequest, placed: Lease | Refusal) -> None:
        """Send a request where it was placed; or wait, or tell why it is not."""
        if isinstance(placed, Lease):
            self._assign(request, placed)
        elif placed in WAIT:
            self._wait(request, placed)
        elif placed is Refusal.DOWN and self._fall_back(request):
            self._place(request)
        elif placed is Refusal.DOWN:
            servers = self._shared.balancer.holding(request.ask)
            self.refuse(error_responses.servers_down(request.ask.model, servers))
        elif self._unreachable is not None:
            record = self._record
            self.refuse(
                error_responses.server_failed(record.server, self._unreachable, record.failures)
            )
        else:
            self.refuse(error_responses.unconfigured())

    def _assign(self, request: ModelRequest | UnroutedRequest, lease: Lease) -> None:
        """Take note of where the request goes, and send it there."""
        record = self._record
        self._lease = record.lease = lease
        record.sent = None
        record.status = 0
        if self._session:
            request_line, there = self._request, self._shared.balancer.name_there(lease)
            request_line.query = with_model(request_line.query, there)
            self.forward(lease.server)
            return
        record.user_agent = self._fields.get(b"user-agent", b"")
        self._pool = pool = self._shared.pools[lease.server]
        try:
            usage = record.key is not None and self._asks_usage(request, lease)
            sent = self._shared.balancer.name_there(lease)
            body = request.body_for(sent, lease.slot, pool.authority, usage=usage)
        except BadRequest as error:
            self.refuse(error_responses.bad_request(str(error)))
            return
        record.size = len(body)
        renamed = bool(request.named) and request.named != sent
        self._edits.expect(request.named if renamed else None, usage=usage)
        self._body = b""
        decoded = False
        if self._encoded:
            decoded = body is not request.received
            body = body if decoded else self._encoded
        self._write_head(pool, b"%d" % len(body), decoded=decoded)
        if len(body) <= JOINED:
            self._out += body
        else:
            self._body = body
        self._send(pool)

    def _asks_usage(self, request: ModelRequest | UnroutedRequest, lease: Lease) -> bool:
        """Whether the server is asked for the usage, though the client has not asked."""
        return request.hides_usage and self._shared.balancer.backend(lease.server).asks_usage

    def _write_head(
        self,
        pool: Pool,
        length: bytes | None,
        upgrade: bytes | None = None,
        *,
        decoded: bool = False,
    ) -> None:
        self._out = self._shared.heads.write(
            self._request,
            self._fields,
            self._client,
            self._record.id,
            self._record.server,
            pool,
            length=length,
            upgrade=upgrade,
            decoded=decoded,
            trace=self._record.trace,
        )

    # The queue

    def _wait(self, request: ModelRequest | UnroutedRequest, why: Refusal) -> None:
        record, shared, ask = self._record, self._shared, request.ask
        queued = QueuedRequest(
            record.session or record.username or "",
            record.model,
            functools.partial(shared.balancer.place, ask, record.failures),
            self._on_turn,
            record.failures,
            functools.partial(shared.balancer.holds, ask, record.failures),
            record.identity,
            record.priority,
            only=ask.only,
            since=self._lost_since or monotonic(),
            had_turn=self._lost_since > 0,
        )
        try:
            shared.queue.enter(queued, bounded=why in (Refusal.FULL, Refusal.HELD))
        except QueueFull as error:
            if ask.since > 0 and (shared.balancer.tier_wait or why is Refusal.HELD):
                ask.since = -1.0  # it cannot wait for something better
                self._place(request)
            else:
                self.refuse(error_responses.queue_full(error))
            return
        self.state = State.QUEUED
        self._queued = queued
        self._queued_at = monotonic()

    def _on_turn(self, turn: Turn) -> None:
        request = self._model_request
        assert request is not None
        self._stop_waiting()
        try:
            if isinstance(turn, QueueTimeout):
                self.refuse(error_responses.queue_timeout(turn))
            elif isinstance(turn, Rejected):
                self.refuse(error_responses.queue_full(turn))
            else:
                self._go_on(request, turn)
        except Exception as error:  # noqa: BLE001 - logged, and the client is told
            self.on_failed(error)

    def _stop_waiting(self) -> None:
        queued, self._queued = self._queued, None
        if queued is not None:
            self._record.waited += monotonic() - self._queued_at
            self._shared.queue.leave(queued)

    # Signs of life

    def _begin_keepalive(self) -> None:
        seconds = self._shared.keepalive
        if seconds and self._keepalive is None:
            self._keepalive = Keepalive(seconds, self._heard_at, self._show_life)

    def _end_keepalive(self) -> None:
        if self._keepalive is not None:
            self._keepalive.end()
            self._keepalive = None  # it leads back here

    def _heard_at(self) -> float:
        """Return when the server was heard last, once the client gets its response."""
        upstream = self._upstream
        return 0.0 if upstream is None or self.state is not State.RESPONDING else upstream.heard_at

    def _show_life(self) -> None:
        """Write a piece of a stream that says nothing; begin the stream where there is none."""
        events, client = self._events, self._client
        piece = events.keepalive(self._fields.get(b"user-agent", b""))
        if not self._started:
            self._begin_stream(piece)
        elif events.takes_ours and client.writable:
            client.write(piece)

    def _begin_stream(self, piece: bytes) -> None:
        """Begin a stream before there is a response that it could pass on."""
        self._started = True
        self._events.begin()
        headers = [
            (b"content-type", self._events.dialect.stream_type),
            (b"x-request-id", self._record.id.encode()),
            *UNBUFFERED,
            *(self._cors or ()),
        ]
        self._client.start(200, headers, piece)

    # The server's connection

    def _send(self, pool: Pool, *, fresh: bool = False) -> None:
        lease = self._lease
        files = None if lease is None or fresh else lease.files
        shares = self._shared.enter is not None and lease is not None and not lease.shared
        prepares = shares or bool(files)
        connection = None if fresh or prepares else pool.kept(repeatable=self._repeatable)
        if connection is not None:
            self._send_over(connection)
            return
        self.state = State.DIALLING
        if self._streams_body:
            self._client.pause()
        dial = pool.dial() if lease is None or not prepares else self._prepare(pool, lease, fresh)
        self._dialling = asyncio.get_running_loop().create_task(dial)
        self._dialling.add_done_callback(self._on_dialled)

    async def _prepare(self, pool: Pool, lease: Lease, fresh: bool) -> Connection:
        """Take the place before other replicas do, and have the server prepare its slot.

        Raises:
            PlaceTaken: another replica was quicker.
        """
        enter = self._shared.enter
        if enter is not None and not lease.shared:
            await self._enter(enter, lease)
        if fresh:
            return await pool.dial()
        if lease.files is not None:
            await self._prepare_slot(pool, lease, lease.files)
        return await pool.connect(repeatable=self._repeatable)

    async def _enter(self, enter: "Enter", lease: Lease) -> None:
        record, begun = self._record, monotonic()
        taken = await enter(lease, record.waited)
        if record.waited:
            record.waited += monotonic() - begun
        if not taken:
            raise PlaceTaken

    async def _prepare_slot(self, pool: Pool, lease: Lease, files: SlotFiles) -> None:
        """Have the server save what the request's slot holds, and restore what it shall hold."""
        balancer, slot = self._shared.balancer, lease.slot
        if files.save and slot is not None:
            balancer.note_saved(lease, await act(pool, slot, "save", files.save))
        if files.restore and slot is not None:
            balancer.note_restored(lease, await act(pool, slot, "restore", files.restore))

    def _on_dialled(self, dialling: "asyncio.Task[Connection]") -> None:
        self._dialling = None
        if dialling.cancelled():
            return
        error = dialling.exception()
        if error is None and self.state is State.ENDED:  # in this very moment
            dialling.result().abort()
        elif error is None:
            self._send_over(dialling.result())
        elif isinstance(error, Exception):
            self.on_failed(error)

    def _send_over(self, connection: Connection) -> None:
        self.state = State.SENT
        self._upstream = connection
        self._lost_since = 0.0
        self._record.sent = monotonic()
        try:
            connection.request(
                self._out,
                self,
                body=self._body,
                head_only=self._request.method == "HEAD",
                unfinished=self._streams_body,
                upgrade=self._upgrades,
            )
            if self._streams_body:
                self._client.send_continue()
                self._client.resume()
                held, self._held = self._held, []
                for data in held:
                    self._pass_body_on(data, complete=False)
                if self._request.complete:
                    self._pass_body_on(b"", complete=True)
        except Exception as error:  # noqa: BLE001 - logged, and the client is told
            self.on_failed(error)

    def _pass_body_on(self, data: bytes, *, complete: bool) -> None:
        """Stream the body to the server, no faster than it reads."""
        connection = self._upstream
        if connection is None:
            if data and self.state is State.DIALLING:
                self._held.append(data)
            return
        self._record.size += len(data)
        if b"transfer-encoding" in self._fields:
            data = (b"%x\r\n%b\r\n" % (len(data), data)) if data else b""
            if complete:
                data += b"0\r\n\r\n"
        if (data or complete) and not connection.send(data, last=complete):
            self._client.pause()

    def on_drained(self) -> None:
        self._client.resume()

    # The response

    def on_response(self, head: Head | None, body: bytes, *, complete: bool) -> None:
        whole, self._whole = self._whole, None
        if head is None and whole is not None:
            head, body = whole[0], whole[1] + body
        if head is None:
            self._pass_on(body, complete=complete)
        elif head.status >= 400:
            if not self._is_ours(head, body, complete=complete):
                self._begin_response(head, body, complete=complete)
        elif complete or not self._edits.needs_whole(head, body):
            self._begin_response(head, body, complete=complete)
        else:
            self._whole = head, body

    def _is_ours(self, head: Head, body: bytes, *, complete: bool) -> bool:
        """Deal with an error that is not just passed on, if it is one."""
        explained = self._lease is not None and (head.status == 404 or head.status in STATUSES)
        if explained and not complete and len(body) < ERROR_LIMIT:
            self._whole = head, body  # what it says may come later
            return True
        if complete:
            self._upstream = None  # it is kept
        if head.status in NO_PAGE and self._wants_page():
            self._show_monitor()
            return True
        if head.status in AWAY:
            return self._goes_elsewhere(head)
        if not explained:
            return False
        return self._lacks_model(body) if head.status == 404 else self._is_too_long(head, body)

    def _lacks_model(self, body: bytes) -> bool:
        """Tell the client which models there are, if a server lacks one that no server lists."""
        request, lease = self._model_request, self._lease
        if request is None or lease is None:
            return False
        if not request.named:
            return self._is_elsewhere(request)
        backends = [*self._shared.balancer.backends()]
        there = listed(backends)
        if not there or not there.isdisjoint(request.ask.names):
            return False
        named = re.escape(self._shared.balancer.name_there(lease).encode())
        if re.search(rb"(?<!\w)" + named + rb"(?!\w)", body) is None:
            return False
        self.refuse(error_responses.unknown_model(request.named, offered(backends)))
        return True

    def _is_elsewhere(self, request: ModelRequest | UnroutedRequest) -> bool:
        """Tell the client what routes its request, if another server has the model."""
        name = request.unrouted_model()
        backends = self._shared.balancer.backends()
        having = [b.server.name for b in backends if name and b.listed((name,))]
        if name is None or not having:
            return False
        self.refuse(error_responses.unrouted(name, having, self._request.path))
        return True

    def _begin_response(self, head: Head, body: bytes, *, complete: bool) -> None:
        self.state = State.RESPONDING
        self._forget_body()
        record, client = self._record, self._client
        record.first_byte = monotonic()
        record.status = head.status
        kind = content_type(head)
        lines = kind.startswith(OLLAMA.stream_type)
        streams = lines or kind.startswith(OPENAI.stream_type)
        record.stream = record.stream or streams
        record.response = reader = ResponseReader(streams=streams, lines=lines)
        ends = api_of(record.endpoint).tokens
        if self._events.go_on(head, kind, ends=ends) is None:  # the client has had a head
            self._pass_on(body, complete=complete)
            return
        if head.status == 101:
            self._open_tunnel(head, body)
            return
        if streams:
            self._begin_keepalive()
        else:
            self._end_keepalive()
        if body:
            reader.passes(body)
            if self._learns is not None:
                self._learn(body)
        self._started = True
        whole = complete and self._request.method != "HEAD" and head.status not in BODILESS
        body = self._edits.begin(head, body, streams=streams, complete=complete)
        self._events.passes(body)
        whole = whole and not self._events.unended
        headers = self._headers(head, whole=whole)
        if reader.streams:
            headers.extend(unbuffered(headers))
        if whole:
            client.respond(head.status, headers, body)
            self._complete()
            return
        keeps_up = client.start(head.status, headers, body)
        if complete:
            self._finish(b"")
        elif not keeps_up and self._upstream is not None:
            self._upstream.pause()

    def _pass_on(self, body: bytes, *, complete: bool) -> None:
        events, client = self._events, self._client
        if events.gathers:
            events.gather(body)
            body = events.gathered() if complete else b""
        else:
            response = self._record.response
            if body and response is not None:
                response.passes(body)
                if self._learns is not None:
                    self._learn(body)
            body = self._edits.piece(body, last=complete)
            events.passes(body)
        if complete:
            self._finish(body)
        elif body and not client.write(body) and self._upstream is not None:
            self._upstream.pause()

    def _finish(self, body: bytes) -> None:
        """Write the last of a response that has come to its end, or has only broken off."""
        if self._events.unended:
            if body:
                self._client.write(body)
            self.on_failed(Broken("the server closed the connection in the middle of its stream"))
        else:
            self._client.finish(body)
            self._complete()

    def _headers(self, head: Head, *, whole: bool) -> list[tuple[bytes, bytes]]:
        pool = self._pool
        assert pool is not None
        headers = response_headers(
            head.status, head.headers, base=pool.base, prefix=pool.prefix, whole=whole
        )
        if self._cors is not None:  # in place of the server's own
            headers = [pair for pair in headers if not pair[0].startswith(b"access-control-")]
            headers.extend(self._cors)
        headers.append((b"x-request-id", self._record.id.encode()))
        headers.extend(self._route())
        if self._record.asked_model:
            headers.append(instead_header(self._record.model))
        return headers

    def _route(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return headers that tell the client where its request went."""
        record = self._record
        if self._shared.tells_route and record.model and record.server:
            return route_headers(record.server, record.instance, record.reason)
        return ()

    def _learn(self, body: bytes) -> None:
        """Find the id in the beginning of a response."""
        beginning = (self._learns or b"") + body
        found = self._shared.owners.learn(beginning, self._record.server)
        self._learns = None if found or len(beginning) > BEGINNING else beginning

    def _open_tunnel(self, head: Head, early: bytes) -> None:
        connection, self._upstream = self._upstream, None
        assert connection is not None
        self._tunnel = tunnel = Tunnel(connection, ended=lambda: self._end("success"))
        tunnel.open(self._client.take_over, head, early)

    # Failures

    def on_failed(self, error: Exception) -> None:
        """Try again, if that can be, or tell the client that the server failed."""
        if self.state is State.ENDED:
            return
        if isinstance(error, OutOfSockets):
            log.error("exchange.out_of_sockets", id=self._record.id, reason=str(error))
            self.refuse(error_responses.out_of_sockets(error))
            return
        if isinstance(error, PlaceTaken) and self._model_request is not None:
            self._let_go(None)
            self._record.lease = None  # it has been nowhere
            self._lost_since = self._lost_since or self._queued_at or monotonic()
            self._place(self._model_request)
            return
        if not isinstance(error, UpstreamError):
            log.error("exchange.failed", id=self._record.id, exc_info=error)
            self.refuse(error_responses.failed())
            return
        record, request, pool = self._record, self._model_request, self._pool
        routed = self._lease is not None and request is not None
        if isinstance(error, Unreachable):
            self._note_unreachable(error)
        retry = next_try(error, repeated=self._repeated, repeatable=self._repeatable, routed=routed)
        if retry is Retry.SAME_SERVER and pool is not None:
            self._repeated = True
            self._upstream = None
            self._send(pool, fresh=True)
        elif retry is Retry.ANOTHER_SERVER and request is not None:
            self._let_go(error)
            self._place(request)
        else:
            record.fault = error.kind
            failed = error_responses.server_failed(record.server, error, record.failures)
            self.refuse(failed, error)

    def _note_unreachable(self, error: Unreachable) -> None:
        record = self._record
        self._unreachable = error
        reason = "connect"
        if self._lease is not None:
            record.failures += (record.server,)
            record.faults += (error.kind,)
            reason = error.kind
        there = "" if self._pool is None else f"{self._pool.base.decode()}: "
        self._shared.balancer.observe(
            ProbeFailed(
                record.server,
                "models",
                unreachable=True,
                reason=f"request: {reason}",
                error=f"{there}{error}",
            )
        )

    def _goes_elsewhere(self, head: Head) -> bool:
        """Try another server once, if one has room, since the client has got nothing yet."""
        self._retry_after = retry_after(head.headers, time())
        self._record.status = head.status
        fault: Fault = "status_429" if head.status == 429 else "status_5xx"
        return self._try_another((), fault)

    def _is_too_long(self, head: Head, body: bytes) -> bool:
        """Try a server where a prompt may fit, or tell the client so that it compacts it."""
        request, lease, record = self._model_request, self._lease, self._record
        found = overflow(body)
        if found is None or request is None or lease is None:
            return False
        balancer = self._shared.balancer
        if found.context:
            balancer.observe(ContextSeen(lease.server, lease.instance, found.context))
        balancer.counted(request.ask, found.tokens)
        record.status = head.status
        too_small = balancer.too_small(request.ask, found.tokens or found.context + 1)
        if not self._try_another(too_small, "context"):
            dialect = self._events.dialect
            if dialect.fails_in_streams and record.stream and not self._started:
                self._begin_stream(b"")
            self.refuse(error_responses.too_long(found, dialect))
        return True

    def _try_another(self, others: tuple[str, ...], fault: Fault) -> bool:
        """Send the request to another server, once, but to none of these `others`."""
        record, request = self._record, self._model_request
        if request is None or self._lease is None or self._turned_away or self._repeated:
            return False
        self._turned_away = True
        tried = (*record.failures, record.server)
        lease = self._shared.balancer.place_again(request.ask, (*tried, *others))
        if lease is None:
            return False
        record.failures = tried
        record.faults += (fault,)
        self._let_go(None, completed=True)
        try:
            self._assign(request, lease)
        except Exception as error:  # noqa: BLE001 - logged, and the client is told
            self.on_failed(error)
        return True

    def allow(self, headers: Headers) -> None:
        """End with the response to a preflight."""
        self._record.status = 204
        self._client.respond(204, [*(self._cors or ()), *headers], b"")
        self._end("success")

    def refuse_later(self, response: ErrorResponse, seconds: float) -> None:
        """End with an error response after some seconds; the body is not read until then."""
        self.state = State.REFUSED
        loop = asyncio.get_running_loop()
        self._refusal = loop.call_later(seconds, self.refuse, response)

    def refuse(self, response: ErrorResponse, error: UpstreamError | None = None) -> None:
        """End with an error response, in whatever way is still open."""
        record, client = self._record, self._client
        record.error = response.message
        record.rejection = response.rejection
        dialect = self._events.dialect
        if not self._started and self._wants_page():
            self._show_monitor(error)
            return
        if not self._started:
            record.status = response.status
            headers = [
                (b"content-type", JSON),
                (b"x-request-id", record.id.encode()),
                *self._route(),
                *response.headers,
                *(self._cors or ()),
            ]
            client.respond(response.status, headers, response.body(dialect))
        elif self.state is not State.RESPONDING:  # life was shown
            record.status = response.status
            client.finish(response.event(dialect))
        else:
            # The openai package raises an error on such an event; a mere end of the stream
            # it takes for the end of the response.
            if self._events.takes_ours:
                client.write(response.event(dialect))
            client.abort()
        self._end(response.outcome, error)

    def _wants_page(self) -> bool:
        """Whether a browser asks for what is at the address itself."""
        request = self._request
        accepted = self._fields.get(b"accept", b"")
        return request.path == "/" and request.method == "GET" and b"text/html" in accepted

    def _show_monitor(self, error: UpstreamError | None = None) -> None:
        """Lead a browser to the monitor, as no server has a page for it."""
        self._record.status = 302
        self._client.respond(302, [(b"location", MONITOR.encode())], b"")
        self._end("success", error)

    @property
    def record(self) -> Record:
        """What is known of the request so far."""
        return self._record

    def cancel(self) -> None:
        """End the request, as the administrator wants."""
        if self.state is not State.ENDED:
            self.refuse(error_responses.cancelled())

    # The end

    def _complete(self) -> None:
        """End with a server's complete response."""
        self._upstream = None  # it may serve the next request already
        self._end(_outcome(self._record.status), completed=True)

    def _end(
        self,
        outcome: Outcome | None,
        error: UpstreamError | None = None,
        *,
        completed: bool = False,
    ) -> None:
        """Let go of everything and hand over the record, on every way out."""
        if self.state is State.ENDED:
            return
        self.state = State.ENDED
        self._stop_waiting()
        self._end_keepalive()
        if self._refusal is not None:
            self._refusal.cancel()
            self._refusal = None
        parsing, self._parsing = self._parsing, None
        if parsing is not None:
            parsing.cancel()
        dialling, self._dialling = self._dialling, None
        if dialling is not None:
            dialling.cancel()
        self._let_go(error, completed=completed)
        if self._tunnel is not None:
            self._tunnel.close()
        self._forget_body()
        self._held = []
        record, shared, now = self._record, self._shared, monotonic()
        shared.underway.discard(self)
        if self._allowance is not None:
            spent = record.spent()
            self._allowance.leave(now, record.tokens, 0 if spent is None else spent.total)
        record.outcome = outcome
        record.ended = now
        shared.in_flight[record.endpoint] -= 1
        shared.finished(record)

    def _forget_body(self) -> None:
        """Let go of the body, which is as long as the prompt: it cannot be sent again."""
        self._model_request = None
        self._out = self._body = self._encoded = b""
        self._shared.buffer.give_back(self._held_size)
        self._held_size = 0

    def _let_go(self, error: UpstreamError | None, *, completed: bool = False) -> None:
        """Have the server stop, if it is at work, and release the lease once it has.

        The lease carries what the request has shown of the server. That a client left, or
        that nothing could be sent, is no word about it.
        """
        connection, self._upstream = self._upstream, None
        if connection is not None:
            connection.cancel()
        lease, self._lease = self._lease, None
        if lease is None:
            return
        status = self._record.status
        lease.worked = self._record.sent is not None and status < 400
        if error is not None:
            if not isinstance(error, Unreachable):
                lease.fault = _FAULTS[error.kind]
        elif completed:
            if status == 429:
                lease.fault = "status_429"
            elif status >= 500:
                lease.fault = "status_5xx"
            else:
                lease.succeeded = status > 0
                lease.reuse = self._reuse()
            if status in (429, 503):
                lease.retry_after = self._retry_after
        if connection is not None and connection.lingers:
            lease.linger()
            connection.when_gone(lease.release)
        else:
            lease.release()

    def _reuse(self) -> CacheReuse | None:
        """Read what the response tells of the server's cache and speed."""
        record = self._record
        response, sent = record.response, record.sent
        if response is None or sent is None or record.status != 200:
            return None
        usage = response.usage()
        if usage is None:
            return None
        first = response.first_token
        seconds = response.reading_seconds if first is None else first - sent
        return CacheReuse(usage.prompt, usage.cached, seconds)


def _decoded(
    read: Read,
    encoding: bytes,
    limit: int,
    endpoint: str,
    raw: bytes,
    identity: str,
    fields: Fields,
) -> ModelRequest | UnroutedRequest:
    """Read a request whose body is compressed."""
    return read(endpoint, decoded(raw, encoding, limit), identity, fields)


def _parsed(
    read: Read, held: list[bytes], endpoint: str, identity: str, fields: Fields
) -> ModelRequest | UnroutedRequest:
    raw = held[0] if len(held) == 1 else b"".join(held)
    held.clear()  # a long body is not held twice
    return read(endpoint, raw, identity, fields)


_FAULTS: Final[Mapping[str, ServerFault]] = {
    "read_timeout": "read_timeout",
    "reset": "reset",
    "protocol": "protocol",
}


def _outcome(status: int) -> Outcome:
    if status < 400:
        return "success"
    if status < 500:
        return "client_error"
    return "upstream_error"
