"""The hot path: every request that is not for the balancer itself, to a server and back."""

import asyncio
import functools
import itertools
import re
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping
from time import monotonic
from typing import Any

from app.routing.balancer import Balancer, Refusal
from app.routing.choice import Ask
from app.routing.ledger import Lease
from app.routing.news import Failure
from app.settings.paths import CHAT_PATH
from app.telemetry.record import Outcome, Record
from app.upstream.errors import Stale, TimedOut, Unreachable, UpstreamError
from app.upstream.pool import Pool
from app.web.exchange import ClientLeft, CutShort, Exchange
from app.web.headers import Origin, joined, request_head, route_headers
from app.web.model_request import INFERENCE_PATHS, ModelRequest, UnroutedRequest
from app.web.refusals import REFUSED, refuse, refuse_unconfigured
from app.web.waiting import WaitingRoom

Read = Callable[[str, bytes, str, bytes], ModelRequest]
"""Reads a request: its path, its body, the client's address, the body's type."""

Served = ModelRequest | UnroutedRequest
"""A request that holds a lease."""

NO_MODEL = "(none)"
"""Stands in telemetry for the model of a request that names none."""


OLLAMA = "/api/"
"""Paths of Ollama's own API: its streams are lines of JSON, not events."""


IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
"""Methods that may be repeated (RFC 9110 section 9.2.2)."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class AnswerBroken(Exception):
    """The answer ended too early: the server in front of us must not end it properly."""


class Relay:
    """An ASGI callable that finds a server for a request and carries both ways.

    A model request holds a lease from before it is sent until its answer has ended, one
    bracket, on every way out. It is tried at the next server only where nothing can have been
    acted on: no connection came about, or a kept one turned out to be closed. `finished`
    is told of every request in the end; `in_flight` counts those under way, by endpoint.
    Requests to the `routed_paths` go where their model is, as `read` finds it. Streams that
    wait for a place get a sign of life every `keepalive` seconds, unless that is 0.
    """

    def __init__(
        self,
        balancer: Balancer,
        pools: Mapping[str, Pool],
        waiting: WaitingRoom,
        *,
        origin: Origin,
        read: Read,
        routed_paths: Collection[str] = (CHAT_PATH,),
        max_body_bytes: int,
        finished: Callable[[Record], None],
        in_flight: Counter[str] | None = None,
        tells_route: bool = True,
        keepalive: float = 0.0,
    ) -> None:
        self._balancer = balancer
        self._pools = pools
        self._waiting = waiting
        self._origin = origin
        self._read = read
        self._routed_paths = frozenset(routed_paths)
        self._model_paths = INFERENCE_PATHS | self._routed_paths
        self._max_body_bytes = max_body_bytes
        self._finished = finished
        self._tells_route = tells_route
        self._keepalive = keepalive
        self._in_flight: Counter[str] = Counter() if in_flight is None else in_flight
        self._ids = map((secrets.token_hex(6) + "-{:x}").format, itertools.count(1))

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        exchange = self._open(scope, receive, send)
        if exchange.record.endpoint == "other":
            await self._see_through(exchange, self._forward(exchange))
        else:
            await self._see_through(exchange, self._serve_model(exchange))

    def at_once(self, scope: dict[str, Any], receive: Any, send: Any, raw: bytes) -> bool:
        """Serve a routed request whose body is there, without a task where none is needed.

        None is where a server has a place, and answers: the exchange calls back at its end.
        A stream would keep a task and its coroutines in memory for as long as it lasts.
        Whatever has to wait or goes wrong goes on in one.
        """
        if scope["method"] != "POST" or scope["path"] not in self._routed_paths:
            return False
        if len(raw) > self._max_body_bytes:
            return False
        exchange = self._open(scope, receive, send)
        try:
            exchange.request = request = self._read_request(exchange, raw)
            lease = self._balancer.place(request.ask)
            if isinstance(lease, Refusal):
                self._go_on(exchange, self._place_and_carry(exchange, request, lease))
                return True
            exchange.lease = lease
            pool = self._pools[lease.server]
            body = self._assign(exchange, request, lease)
            head = self._head(exchange, pool, b"%d" % len(body))
            kept = pool.kept()
            if kept is None:
                exchange.dial(pool, head, body, self._landed)
            else:
                exchange.begin(kept, pool, head, body, self._landed)
        except Exception as error:  # noqa: BLE001 - the client is told of it
            self._landed(exchange, error)
        return True

    def _landed(self, exchange: Exchange, error: Exception | None) -> None:
        """Hear how an exchange without a task has ended."""
        record, lease, request = exchange.record, exchange.lease, exchange.request
        if isinstance(error, Stale) and lease is not None and request is not None:
            self._go_on(exchange, self._place_and_carry(exchange, request, lease))
            return
        if isinstance(error, Unreachable):
            self._note_failure(record, error)
        if lease is not None:
            _release(lease, record)
        if isinstance(error, Unreachable) and request is not None:
            self._go_on(exchange, self._place_and_carry(exchange, request, unreachable=error))
        elif error is None or isinstance(error, ClientLeft):
            record.outcome = _outcome(record.status) if error is None else "client_disconnect"
            self._conclude(exchange)
        else:
            self._go_on(exchange, _fail(error))

    def _go_on(self, exchange: Exchange, serving: Coroutine[Any, Any, None]) -> None:
        exchange.client.unwatch(exchange)  # the task watches by itself
        exchange.client.run(lambda *_: self._see_through(exchange, serving))

    def _open(self, scope: dict[str, Any], receive: Any, send: Any) -> Exchange:
        path = scope["path"]
        model_request = path in self._model_paths and scope["method"] == "POST"
        peer = scope["client"][0] if scope["client"] else ""
        headers = scope["headers"]
        fields = dict(headers)
        if len(fields) < len(headers) and b"x-forwarded-for" in fields:
            fields[b"x-forwarded-for"] = joined(headers, b"x-forwarded-for")
        record = Record(
            self._request_id(fields.get(b"x-request-id")),
            path if model_request else "other",
            self._origin.client(peer, fields.get(b"x-forwarded-for")),
            monotonic(),
        )
        self._in_flight[record.endpoint] += 1
        return Exchange(scope, receive, send, fields, record)

    async def _see_through(self, exchange: Exchange, serving: Coroutine[Any, Any, None]) -> None:
        """Serve a request, and tell the client and the telemetry how that went."""
        record = exchange.record
        try:
            exchange.client.watch(exchange)
            try:
                await serving
            except UpstreamError as error:
                await self._give_up(exchange, error)
            except REFUSED as error:
                await refuse(exchange, error)
            record.outcome = record.outcome or _outcome(record.status)
        except CutShort:
            await self._cut_short(exchange)
        except asyncio.CancelledError:
            if exchange.stopped:
                _uncancel()
                await self._cut_short(exchange)
            elif exchange.client.left:
                _uncancel()
                record.outcome = "client_disconnect"
            else:
                raise
        except ClientLeft:
            record.outcome = "client_disconnect"
        finally:
            self._conclude(exchange)

    def _conclude(self, exchange: Exchange) -> None:
        record = exchange.record
        exchange.close()
        self._in_flight[record.endpoint] -= 1
        record.ended = monotonic()
        self._finished(record)

    # A request that makes a model work

    async def _serve_model(self, exchange: Exchange) -> None:
        raw = await exchange.read_body(self._max_body_bytes)
        await self._place_and_carry(exchange, self._read_request(exchange, raw))

    def read(self, path: str, raw: bytes, address: str, content_type: bytes) -> Served:
        """Read a request as its path asks for; one that is not routed is not looked at.

        Raises:
            BadRequest: it cannot be routed.
        """
        if path in self._routed_paths:
            return self._read(path, raw, address, content_type)
        return UnroutedRequest(path, raw, address)

    def _read_request(self, exchange: Exchange, raw: bytes) -> Served:
        record = exchange.record
        record.ready = monotonic()
        content_type = exchange.fields.get(b"content-type", b"")
        request = self.read(record.endpoint, raw, record.address, content_type)
        record.username = request.username
        record.model = request.ask.model or NO_MODEL
        record.stream = request.streams
        return request

    async def _place_and_carry(
        self,
        exchange: Exchange,
        request: Served,
        lease: Lease | Refusal | None = None,
        unreachable: Unreachable | None = None,
    ) -> None:
        """Carry the request to one server after another until one could be reached.

        It may have a `lease` already, or have met an `unreachable` server.
        """
        record = exchange.record
        while True:
            lease = lease or self._balancer.place(request.ask, record.failures)
            if lease is Refusal.FULL:
                lease = await self._wait(exchange, request.ask)
            if isinstance(lease, Refusal):
                if unreachable is not None:
                    raise unreachable
                await refuse_unconfigured(exchange)
                return
            try:
                body = self._assign(exchange, request, lease)
                await self._carry(exchange, lease.server, body, b"%d" % len(body))
                return
            except Unreachable as error:
                unreachable = error
                self._note_failure(record, error)
            finally:
                _release(lease, record)
            lease = None

    def _note_failure(self, record: Record, error: Unreachable) -> None:
        record.failures += (record.server,)
        record.faults += (error.kind,)
        self._balancer.learn(Failure(record.server, "models", unreachable=True))

    def _assign(self, exchange: Exchange, request: Served, lease: Lease) -> bytes:
        """Note where the request goes, and write its body for there."""
        record = exchange.record
        record.sent = None
        record.server, record.instance = lease.server, lease.instance
        record.reason, record.claim = lease.reason, lease.claim
        if self._tells_route:
            exchange.route = route_headers(lease.server, lease.instance, lease.reason)
        return request.body_for(lease.instance, lease.slot)

    async def _wait(self, exchange: Exchange, ask: Ask) -> Lease | Refusal:
        record = exchange.record
        asked = monotonic()
        waiting = self._waiting.wait(
            record.username or record.address,
            record.model,
            functools.partial(self._balancer.place, ask, record.failures),
            record.failures,
            functools.partial(self._balancer.holds, ask, record.failures),
        )
        if self._keepalive and record.stream and not record.endpoint.startswith(OLLAMA):
            waiting = self._show_life(exchange, waiting)
        lease = await waiting
        record.waited += monotonic() - asked
        return lease

    async def _show_life(
        self, exchange: Exchange, waiting: Coroutine[Any, Any, Lease | Refusal]
    ) -> Lease | Refusal:
        """Wait, and let the client know now and then that somebody is there."""
        task = asyncio.ensure_future(waiting)
        try:
            while not task.done():
                await asyncio.wait((task,), timeout=self._keepalive)
                if not task.done():
                    await exchange.keep_alive("waiting for a free server")
        except BaseException:
            task.cancel()
            task.add_done_callback(_give_back)
            raise
        return task.result()

    async def _carry(
        self, exchange: Exchange, server: str, body: bytes, length: bytes | None
    ) -> None:
        """Carry a request whose body is at hand; again, where a kept connection was closed."""
        pool = self._pools[server]
        head = self._head(exchange, pool, length)
        try:
            await exchange.run(pool, head, body)
        except Stale:
            await exchange.run(pool, head, body, fresh=True)

    # Any other request

    async def _forward(self, exchange: Exchange) -> None:
        """Carry a request to the fallback server, its body streamed, without a lease."""
        server = self._balancer.fleet.fallback
        if server is None:
            await refuse_unconfigured(exchange)
            return
        exchange.record.server = server
        exchange.record.reason = "fallback"
        try:
            await self._forward_to(server, exchange)
        except Unreachable:
            self._balancer.learn(Failure(server, "models", unreachable=True))
            raise

    async def _forward_to(self, server: str, exchange: Exchange) -> None:
        fields = exchange.fields
        chunked = b"transfer-encoding" in fields
        length = b"chunked" if chunked else fields.get(b"content-length")
        bodiless = length is None or length == b"0"
        upgrade = bodiless and fields.get(b"upgrade", b"").lower() == b"websocket"
        if bodiless and not upgrade and exchange.scope["method"] in IDEMPOTENT:
            await self._carry(exchange, server, b"", length)
            return
        # What is sent now may not be sent twice, so it may not meet a stale connection.
        pool = self._pools[server]
        if upgrade:
            head = self._head(exchange, pool, None, upgrade=b"websocket")
            await exchange.run(pool, head, b"", fresh=True, upgrade=True)
        else:
            head = self._head(exchange, pool, length)
            body = b"" if bodiless else None
            await exchange.run(pool, head, body, fresh=True, chunked=chunked)

    # Both

    def _head(
        self, exchange: Exchange, pool: Pool, length: bytes | None, upgrade: bytes | None = None
    ) -> bytes:
        scope, fields = exchange.scope, exchange.fields
        peer = scope["client"][0] if scope["client"] else ""
        chain = peer
        if b"x-forwarded-for" in fields and self._origin.trusts(peer):
            chain = f"{fields[b'x-forwarded-for'].decode('latin-1')}, {peer}"
        query = scope["query_string"]
        return request_head(
            scope["method"],
            scope["raw_path"] + b"?" + query if query else scope["raw_path"],
            scope["headers"],
            authority=pool.authority,
            forwarded=b"x-forwarded-for: %b\r\nx-forwarded-host: %b\r\n"
            b"x-forwarded-proto: %b\r\nx-request-id: %b\r\n"
            % (
                chain.encode("latin-1"),
                fields.get(b"host", b""),
                scope["scheme"].encode(),
                exchange.record.id.encode(),
            ),
            length=length,
            upgrade=upgrade,
        )

    async def _give_up(self, exchange: Exchange, error: UpstreamError) -> None:
        """Tell the client that its server failed."""
        record = exchange.record
        record.fault = error.kind
        message = f"server {record.server}: {error}"
        if isinstance(error, TimedOut):
            record.outcome = "timeout"
            await _end_badly(exchange, 504, "upstream_timeout", message)
        else:
            record.outcome = "upstream_error"
            await _end_badly(exchange, 502, "upstream_error", message)

    async def _cut_short(self, exchange: Exchange) -> None:
        """Tell the client that the balancer stops; no server is to blame."""
        exchange.record.outcome = "rejected"
        await _end_badly(exchange, 503, "server_shutdown", "the balancer is shutting down")

    def _request_id(self, given: bytes | None) -> str:
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given.decode("ascii")
        return next(self._ids)


def _give_back(waited: "asyncio.Task[Lease | Refusal]") -> None:
    """Give back a place that came to somebody who was leaving."""
    if not waited.cancelled() and waited.exception() is None:
        lease = waited.result()
        if isinstance(lease, Lease):
            lease.release()


async def _end_badly(exchange: Exchange, status: int, kind: str, message: str) -> None:
    """Tell of an error in whatever way is still open."""
    if exchange.started:
        exchange.record.error = message
        await exchange.break_off(status, kind, message)
        raise AnswerBroken(message)
    await exchange.refuse(status, kind, message)


async def _fail(error: Exception) -> None:
    raise error


def _release(lease: Lease, record: Record) -> None:
    lease.worked = record.sent is not None and record.status < 400
    lease.release()


def _outcome(status: int) -> Outcome:
    if status < 400:
        return "success"
    if status < 500:
        return "client_error"
    return "upstream_error"


def _uncancel() -> None:
    """Take back the cancellation that the client's leaving set off."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
