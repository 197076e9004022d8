"""The hot path: every request that is not for the balancer itself, to a server and back."""

import asyncio
import functools
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping
from time import monotonic
from typing import Any

from app.apis.endpoints import APIS, CHAT_PATH, api_of
from app.apis.rewrites import Rewrites
from app.downstream.forwarded import Origin
from app.proxy.carrier import Carrier
from app.proxy.error_responses import (
    REFUSED,
    cut_short,
    give_up,
    refuse,
    refuse_down,
    refuse_loop,
    refuse_unconfigured,
)
from app.proxy.exchange import CutShort, Exchange, TurnedAway
from app.proxy.headers import route_headers
from app.proxy.heartbeat import with_heartbeat
from app.proxy.journal import Journal
from app.proxy.loops import HOPS
from app.proxy.model_request import ModelRequest, UnroutedRequest
from app.proxy.queue import WAIT, WaitingRoom
from app.proxy.upload import ClientLeft
from app.routing.balancer import Balancer, Refusal
from app.routing.choice import Ask
from app.routing.ledger import Fault, Lease
from app.routing.news import Failure
from app.telemetry.record import Outcome, Record
from app.upstream.errors import Stale, Unreachable, UpstreamError
from app.upstream.pool import Pool

Read = Callable[[str, bytes, str, bytes], ModelRequest]
"""Reads a request: its path, its body, the client's address, the body's type."""

Served = ModelRequest | UnroutedRequest
"""A request that holds a lease."""

WORKING_PATHS = frozenset(path for path, api in APIS.items() if api.works)
"""A POST to one of these makes a model work: it holds a lease wherever it goes."""

NO_MODEL = "(none)"
"""Stands in telemetry for the model of a request that names none."""


class Relay:
    """An ASGI callable that finds a server for a request and carries both ways.

    A model request holds a lease from before it is sent until its answer has ended, one
    bracket, on every way out. It is tried at the next server only where nothing can have been
    acted on: no connection came about. `finished`
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
        rewrites: Rewrites | None = None,
        routed_paths: Collection[str] = (CHAT_PATH,),
        max_body_bytes: int,
        finished: Callable[[Record], None],
        in_flight: Counter[str] | None = None,
        tells_route: bool = True,
        keepalive: float = 0.0,
    ) -> None:
        self._balancer = balancer
        self._carrier = Carrier(pools, origin)
        self._waiting = waiting
        self._read = read
        self._rewrites = rewrites or Rewrites()
        self._routed_paths = frozenset(routed_paths)
        self._journal = Journal(
            origin=origin,
            model_paths=WORKING_PATHS | self._routed_paths,
            finished=finished,
            in_flight=in_flight,
        )
        self._max_body_bytes = max_body_bytes
        self._tells_route = tells_route
        self._keepalive = keepalive

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        exchange = self._journal.open(scope, receive, send)
        if (server := self._loop(exchange)) is not None:
            await self._see_through(exchange, refuse_loop(exchange, server))
        elif exchange.record.endpoint == "other":
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
        exchange = self._journal.open(scope, receive, send)
        if (server := self._loop(exchange)) is not None:
            self._go_on(exchange, refuse_loop(exchange, server))
            return True
        try:
            request = self._read_request(exchange, raw)
            lease = self._balancer.place(request.ask)
            if isinstance(lease, Refusal):
                self._go_on(exchange, self._place_and_carry(exchange, request, lease))
                return True
            exchange.lease = lease
            pool = self._carrier.pools[lease.server]
            body = self._assign(exchange, request, lease)
            head = self._carrier.head(exchange, pool, b"%d" % len(body))
            kept = pool.kept()
            if kept is None:
                exchange.dial(pool, head, body, self._landed)
            else:
                exchange.begin(kept, pool, head, body, self._landed)
        except Exception as error:  # noqa: BLE001 - the client is told of it
            self._landed(exchange, error)
        return True

    def _loop(self, exchange: Exchange) -> str | None:
        """Name the server that led a request back here, if one did."""
        fields = exchange.fields
        if b"via" not in fields and HOPS not in fields:
            return None
        return self._carrier.loops.found(exchange.scope["headers"], fields.get(HOPS))

    def _landed(self, exchange: Exchange, error: Exception | None) -> None:
        """Hear how an exchange without a task has ended."""
        record, lease, request = exchange.record, exchange.lease, exchange.request
        if isinstance(error, TurnedAway) and lease is not None and request is not None:
            _release(exchange, lease, error)
            self._go_on(exchange, self._place_and_carry(exchange, request))
            return
        if isinstance(error, Stale) and lease is not None and request is not None:
            exchange.repeats = True
            self._go_on(exchange, self._place_and_carry(exchange, request, lease))
            return
        if isinstance(error, Unreachable):
            self._note_failure(record, error)
        if lease is not None:
            _release(exchange, lease, error)
        if isinstance(error, Unreachable) and request is not None:
            self._go_on(exchange, self._place_and_carry(exchange, request, unreachable=error))
        elif error is None or isinstance(error, ClientLeft):
            record.outcome = _outcome(record.status) if error is None else "client_disconnect"
            self._journal.close(exchange)
        else:
            self._go_on(exchange, _fail(error))

    def _go_on(self, exchange: Exchange, serving: Coroutine[Any, Any, None]) -> None:
        exchange.client.unwatch(exchange)  # the task watches by itself
        exchange.client.run(lambda *_: self._see_through(exchange, serving))

    async def _see_through(self, exchange: Exchange, serving: Coroutine[Any, Any, None]) -> None:
        """Serve a request, and tell the client and the telemetry how that went."""
        record = exchange.record
        try:
            exchange.client.watch(exchange)
            try:
                await serving
            except UpstreamError as error:
                await give_up(exchange, error)
            except REFUSED as error:
                await refuse(exchange, error)
            record.outcome = record.outcome or _outcome(record.status)
        except CutShort:
            await cut_short(exchange)
        except asyncio.CancelledError:
            if exchange.stopped:
                _uncancel()
                await cut_short(exchange)
            elif exchange.client.left:
                _uncancel()
                record.outcome = "client_disconnect"
            else:
                raise
        except ClientLeft:
            record.outcome = "client_disconnect"
        finally:
            self._journal.close(exchange)

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
        return UnroutedRequest(self._rewrites, path, raw, address)

    def _read_request(self, exchange: Exchange, raw: bytes) -> Served:
        record = exchange.record
        record.ready = monotonic()
        content_type = exchange.fields.get(b"content-type", b"")
        request = self.read(record.endpoint, raw, record.address, content_type)
        record.username = request.username
        record.model = request.ask.model or NO_MODEL
        record.stream = request.streams
        exchange.request = request
        exchange.elsewhere = self._elsewhere
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
        record, ask = exchange.record, request.ask
        while True:
            if exchange.next is not None:
                lease, exchange.next = exchange.next, None
            lease = lease or self._balancer.place(ask, record.failures)
            if lease in WAIT:
                lease = await self._wait(exchange, ask, bounded=lease is Refusal.FULL)
            if lease is Refusal.DOWN:
                await refuse_down(exchange, ask.model, self._balancer.holding(ask))
                return
            if isinstance(lease, Refusal):
                if unreachable is not None:
                    raise unreachable
                await refuse_unconfigured(exchange)
                return
            error = await self._carry(exchange, request, lease)
            if error is None:
                return
            if isinstance(error, Unreachable):
                unreachable = error
            lease = None

    async def _carry(
        self, exchange: Exchange, request: Served, lease: Lease
    ) -> Unreachable | TurnedAway | None:
        """Carry a request to where its lease is; tell why it may go elsewhere, if it may."""
        failure: BaseException | None = None
        try:
            exchange.request = request
            body = self._assign(exchange, request, lease)
            await self._carrier.carry(exchange, lease.server, body, b"%d" % len(body))
        # Compiled code gives a name one type in a function: each exception has its own.
        except TurnedAway as away:
            failure = away
            return away
        except Unreachable as unreachable:
            failure = unreachable
            self._note_failure(exchange.record, unreachable)
            if exchange.repeats:
                raise
            return unreachable
        except BaseException as other:
            failure = other
            raise
        finally:
            _release(exchange, lease, failure)
        return None

    def _elsewhere(self, exchange: Exchange) -> Lease | None:
        """Find another server for a request that one has turned away, once."""
        record, request = exchange.record, exchange.request
        exchange.elsewhere = None
        if request is None or exchange.repeats:
            return None
        lease = self._balancer.place_again(request.ask, (*record.failures, record.server))
        if lease is not None:
            record.failures += (record.server,)
            record.faults += ("status_429" if record.status == 429 else "status_5xx",)
        return lease

    def _note_failure(self, record: Record, error: Unreachable) -> None:
        record.failures += (record.server,)
        record.faults += (error.kind,)
        self._balancer.learn(
            Failure(record.server, "models", unreachable=True, reason=f"request: {error.kind}")
        )

    def _assign(self, exchange: Exchange, request: Served, lease: Lease) -> bytes:
        """Note where the request goes, and write its body for there."""
        record = exchange.record
        record.sent = None
        record.status = 0
        record.server, record.instance = lease.server, lease.instance
        record.reason, record.claim = lease.reason, lease.claim
        if self._tells_route:
            exchange.route = route_headers(lease.server, lease.instance, lease.reason)
        return request.body_for(lease.instance, lease.slot)

    async def _wait(self, exchange: Exchange, ask: Ask, *, bounded: bool) -> Lease | Refusal:
        record = exchange.record
        asked = monotonic()
        waiting = self._waiting.wait(
            record.username or record.address,
            record.model,
            functools.partial(self._balancer.place, ask, record.failures),
            record.failures,
            functools.partial(self._balancer.holds, ask, record.failures),
            bounded=bounded,
        )
        if self._keepalive and record.stream and not api_of(record.endpoint).ollama:
            beat = functools.partial(exchange.keep_alive, "waiting for a free server")
            waiting = with_heartbeat(waiting, self._keepalive, beat)
        try:
            return await waiting
        finally:
            record.waited += monotonic() - asked

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
            await self._carrier.forward(exchange, server)
        except Unreachable:
            self._balancer.learn(
                Failure(server, "models", unreachable=True, reason="request: connect")
            )
            raise


async def _fail(error: Exception) -> None:
    raise error


def _release(exchange: Exchange, lease: Lease, error: BaseException | None) -> None:
    """Give a lease back, with what its request has shown of the server.

    That a client left, or that nothing could be sent, is no word about it.
    """
    status = exchange.record.status
    lease.worked = exchange.record.sent is not None and status < 400
    if isinstance(error, UpstreamError):
        if not isinstance(error, Unreachable):
            lease.fault = _FAULTS[error.kind]
    elif error is None or isinstance(error, TurnedAway):
        if status == 429:
            lease.fault = "status_429"
        elif status >= 500:
            lease.fault = "status_5xx"
        else:
            lease.succeeded = status > 0
        if status in (429, 503):
            lease.rest = exchange.rest
    exchange.release(lease)


_FAULTS: Mapping[str, Fault] = {
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


def _uncancel() -> None:
    """Take back the cancellation that the client's leaving set off."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
