"""The reverse proxy: every request that is not for the balancer itself, to a server and back."""

import re
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from time import monotonic
from typing import Final

import orjson
import structlog

from app.apis.control_paths import controls
from app.apis.endpoints import APIS, CHAT_PATH, OTHER, REALTIME_PATH, may_work
from app.apis.json_body import BadRequest
from app.apis.paths import cleaned
from app.apis.rewrites import Rewrites
from app.downstream.connection import ClientConnection, Request
from app.downstream.forwarded import Origin
from app.downstream.hosts import Hosts
from app.keys.key_ring import KeyRing
from app.keys.priority import HEADER, lowered
from app.keys.wrong_keys import WrongKeys
from app.proxy.buffer import Buffer
from app.proxy.cors import Cors, Headers, is_preflight, preflight
from app.proxy.error_responses import (
    ErrorResponse,
    bad_request,
    control_closed,
    hints_closed,
    host_closed,
    loop_detected,
    origin_closed,
    path_closed,
    unauthorized,
)
from app.proxy.exchange import Exchange, Read, Shared
from app.proxy.headers import joined
from app.proxy.hints import heed, hints
from app.proxy.loops import HOPS, Loops
from app.proxy.model_request import ModelRequest, UnroutedRequest
from app.proxy.owners import MAKERS, Owners
from app.proxy.queue import RequestQueue
from app.proxy.realtime import model_of
from app.proxy.request_heads import Fields, RequestHeads
from app.routing.balancer import Balancer
from app.routing.choice import Ask
from app.routing.ledger import Lease
from app.telemetry.record import Record, Trace
from app.upstream.pool import Pool

WORKING_PATHS: Final = frozenset(path for path, api in APIS.items() if api.works)
"""A POST to one of these makes a model work: it holds a lease wherever it goes."""

BOM: Final = b"\xef\xbb\xbf"
"""Stands in front of a text that some programs write (RFC 8259 section 8.1)."""

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing (RFC 9110 section 9.2.1)."""

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")

log: Final = structlog.get_logger(__name__)


class Proxy:
    """Begins an exchange for each request (a `downstream.connection.Handler`).

    `finished` is told of every request in the end; `in_flight` counts those under way, by
    endpoint. Requests to the `routed_paths` go where their model is, as `read` finds it.
    Streams that wait for a place get a sign of life every `keepalive` seconds, unless that
    is 0. `parser` reads long bodies beside the event loop; `underway` holds model requests
    until their end; `trace` begins a request's trace, and `enter` takes a place for all
    replicas to see. Clients need a key of `keys` where there
    are any; `forwarding` is `RequestHeads`'. `loops` marks what goes out.
    """

    def __init__(
        self,
        balancer: Balancer,
        pools: Mapping[str, Pool],
        queue: RequestQueue,
        *,
        origin: Origin,
        read: Read,
        max_body_bytes: int,
        buffer: Buffer,
        finished: Callable[[Record], None],
        rewrites: Rewrites | None = None,
        routed_paths: Collection[str] = (CHAT_PATH,),
        in_flight: dict[str, int] | None = None,
        tells_route: bool = True,
        passes_control: bool = True,
        keepalive: float = 0.0,
        keys: KeyRing | None = None,
        wrong_keys: WrongKeys | None = None,
        hosts: Hosts | None = None,
        cors: Cors | None = None,
        forwarding: Collection[str] | None = None,
        loops: Loops | None = None,
        parser: Executor | None = None,
        owners: Owners | None = None,
        underway: set[Exchange] | None = None,
        trace: Callable[[Fields], Trace | None] | None = None,
        enter: Callable[[Lease, float], Awaitable[bool]] | None = None,
    ) -> None:
        self._keys = KeyRing([]) if keys is None else keys
        self._hosts = hosts or Hosts()
        self._cors = cors or Cors()
        self._wrong_keys = wrong_keys or WrongKeys(lambda *_: None)
        self._balancer = balancer
        self._origin = origin
        self._read = read
        self._rewrites = rewrites or Rewrites()
        self._routed_paths = frozenset(routed_paths)
        self._passes_control = passes_control
        self._model_paths = WORKING_PATHS | self._routed_paths
        self._loops = loops = Loops(pools) if loops is None else loops
        self._ids = secrets.token_hex(6) + "-"
        self._requests = 0
        self._trace = trace
        self._shared = Shared(
            balancer,
            pools,
            queue,
            RequestHeads(origin, loops, forwarding),
            self.read,
            parser or ThreadPoolExecutor(1),
            max_body_bytes,
            buffer,
            tells_route,
            keepalive,
            finished,
            {} if in_flight is None else in_flight,
            owners or Owners(),
            set() if underway is None else underway,
            enter,
        )

    def __call__(self, request: Request, client: ClientConnection) -> Exchange:
        headers = request.headers
        fields = _fields(headers)
        endpoint, works = self._endpoint(request, fields)
        record = Record(
            self._request_id(fields.get(b"x-request-id")),
            endpoint,
            self._origin.client(client.peer, fields.get(b"x-forwarded-for")),
            monotonic(),
        )
        record.path = request.path
        if self._trace is not None:
            record.trace = self._trace(fields)
        in_flight = self._shared.in_flight
        in_flight[record.endpoint] = in_flight.get(record.endpoint, 0) + 1
        cors: Headers | None = None
        if b"origin" in fields:
            cors = self._cors.grant(fields[b"origin"], fields.get(b"host", b""))
        exchange = Exchange(self._shared, request, client, fields, record, cors)
        looped = None
        if b"via" in fields or HOPS in fields:
            looped = self._loops.found(headers, fields.get(HOPS))
        if looped is not None:
            log.warning("loop.detected", server=looped, id=record.id)
            exchange.refuse(loop_detected(looped))
        elif cors and is_preflight(request.method, fields):
            exchange.allow(preflight(fields))
        elif (refusal := self._refusal(request, fields, record, cors, works=works)) is not None:
            if refusal.status == 401 and self._keys.shown(fields):
                exchange.refuse_later(
                    refusal, self._wrong_keys.hold_back(record.address, monotonic())
                )
            else:
                exchange.refuse(refusal)
        elif works:
            exchange.serve_model()
        elif endpoint == REALTIME_PATH:
            self._open_session(exchange, request, record, fields)
        else:
            self._forward(exchange, request)
        return exchange

    def _forward(self, exchange: Exchange, request: Request) -> None:
        """Send a request to the server that made what it asks for, or to the fallback."""
        owner = None
        if request.path.startswith("/v1/"):
            owner = self._shared.owners.of_path(request.path)
            if request.method == "POST" and cleaned(request.path) in MAKERS:
                exchange.learn_id()
        known = owner if owner in self._balancer.fleet.servers else None
        exchange.forward(known or self._balancer.fleet.fallback)

    def _open_session(
        self, exchange: Exchange, request: Request, record: Record, fields: Fields
    ) -> None:
        try:
            body = orjson.dumps({"model": model_of(request.query)})
            exchange.open_session(self.read(REALTIME_PATH, body, record.identity, fields))
        except BadRequest as error:
            exchange.refuse(bad_request(str(error)))

    def _refusal(
        self,
        request: Request,
        fields: Fields,
        record: Record,
        cors: Headers | None,
        *,
        works: bool,
    ) -> ErrorResponse | None:
        """Tell why a client may not ask for this, before its body is read."""
        keys, key = self._keys, None
        host = fields.get(b"host", b"")
        if not self._hosts.allow(host):
            return host_closed(host)
        if cors == () and not _is_harmless(request, fields):
            return origin_closed(fields[b"origin"])
        if keys.required:
            record.key = key = keys.find(fields)
            if key is None:
                return unauthorized()
            if key.models and not self._is_limited_by_model(request, fields, record.endpoint):
                return path_closed()
            if hints(fields) and not (key.hints or key.admin):
                return hints_closed()
        try:
            own = "normal" if key is None else key.priority
            record.priority = lowered(own, fields.get(HEADER))
        except ValueError as error:
            return bad_request(str(error))
        known = works and record.endpoint != OTHER
        if known or self._passes_control or not controls(request.method, request.path):
            return None
        key = key or keys.find(fields)
        return None if key is not None and key.admin else control_closed()

    def _endpoint(self, request: Request, fields: Fields) -> tuple[str, bool]:
        """Name what a request is for, and tell whether it makes a model work, or may do so."""
        if request.method != "POST":
            if b"upgrade" in fields and REALTIME_PATH in self._routed_paths:
                is_session = cleaned(request.path) == REALTIME_PATH and model_of(request.query)
                return (REALTIME_PATH if is_session else OTHER), False
            return OTHER, False
        path = request.path
        if path in self._model_paths:
            return path, True
        path = cleaned(path)
        if path in self._model_paths:
            return path, True
        return OTHER, may_work(path) and self._is_short(fields)

    def _is_short(self, fields: Fields) -> bool:
        """Whether a body may be one that is read: nobody asks a model for so much at once."""
        length = fields.get(b"content-length")
        return length is None or int(length) <= self._shared.max_body_bytes

    def _is_limited_by_model(self, request: Request, fields: Fields, endpoint: str) -> bool:
        """Whether a request can reach no model but the one that it names, or none at all."""
        if request.method == "POST" or endpoint == REALTIME_PATH:
            return endpoint in self._routed_paths
        return request.method in SAFE and b"upgrade" not in fields

    def read(
        self, path: str, raw: bytes, address: str, fields: Fields
    ) -> ModelRequest | UnroutedRequest:
        """Read a request as its path asks for; one that is not routed is not looked at.

        Raises:
            BadRequest: it cannot be routed.
        """
        if raw and raw[0] == BOM[0]:
            raw = raw.removeprefix(BOM)
        if path in self._routed_paths:
            return self._read(path, raw, address, fields)
        return UnroutedRequest(self._rewrites, path, raw, address)

    def ask_of(self, path: str, raw: bytes, address: str, fields: Fields) -> Ask:
        """Read what a request would want, with what its headers say of servers.

        Raises:
            BadRequest: it cannot be routed.
        """
        ask = self.read(path, raw, address, fields).ask
        heed(ask, fields, self._balancer.fleet.servers)
        return ask

    def _request_id(self, given: bytes | None) -> str:
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given.decode("ascii")
        self._requests += 1
        return self._ids + str(self._requests)


def _fields(headers: list[tuple[bytes, bytes]]) -> Fields:
    fields: Fields = {}
    for name, value in headers:  # compiled, `dict` takes twice as long
        fields[name] = value
    if len(fields) < len(headers) and b"x-forwarded-for" in fields:
        fields[b"x-forwarded-for"] = joined(headers, b"x-forwarded-for")
    return fields


def _is_harmless(request: Request, fields: Fields) -> bool:
    """Whether any page may send a request: it changes nothing, and its response cannot be read."""
    return request.method in SAFE and request.method != "OPTIONS" and b"upgrade" not in fields
