"""Error responses: what a client gets that gets no server's response, or not all of it."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from app.apis.context import KIND, Overflow
from app.apis.dialects import Dialect
from app.apis.encodings import KNOWN
from app.proxy.queued_request import QueueTimeout, Rejected
from app.telemetry.record import Fault, Outcome, Rejection
from app.upstream.errors import OutOfSockets, TimedOut, UpstreamError

RETRY_AFTER: Final = 5, 60
"""A rejected client may try again after so many seconds at least, and at most."""

LISTED: Final = 50
"""How many models the error for an unknown one names."""

LONGEST_NAME: Final = 256
"""How much of an unknown name is repeated, in characters."""

Headers = tuple[tuple[bytes, bytes], ...]

_CLOSE: Final[Headers] = ((b"connection", b"close"),)
_RETRY: Final[Headers] = ((b"retry-after", b"%d" % RETRY_AFTER[0]),)


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """An error of ours: what the client is told, and how the request counts."""

    status: int
    type: str
    """A word of OpenAI's API."""
    message: str
    outcome: Outcome | None
    """None for a fault of our own."""
    headers: Headers = ()
    rejection: Rejection | None = None
    fault: Fault | None = None

    def body(self, dialect: Dialect) -> bytes:
        """Write it as the body of a response."""
        return dialect.error(self.status, self.type, self.message)

    def event(self, dialect: Dialect) -> bytes:
        """Write it as a piece of a stream."""
        return dialect.error_event(self.status, self.type, self.message)


def bad_request(message: str) -> ErrorResponse:
    """Respond to a request that cannot be read."""
    return ErrorResponse(400, "invalid_request_error", message, "client_error")


def body_too_large(limit: int) -> ErrorResponse:
    """Respond to a body that is longer than `limit` bytes."""
    message = f"the body is longer than {limit} bytes (BALANCER_MAX_BODY_BYTES)"
    return ErrorResponse(413, "invalid_request_error", message, "client_error", _CLOSE)


def unknown_encoding(name: str) -> ErrorResponse:
    """Respond to a body that is compressed in an unknown way (RFC 9110 section 15.5.16)."""
    message = f'the body is encoded as "{name}", which is none of {KNOWN.decode()}'
    headers = ((b"accept-encoding", KNOWN), *_CLOSE)
    return ErrorResponse(415, "invalid_request_error", message, "client_error", headers)


def buffer_full(limit: int) -> ErrorResponse:
    """Respond to a request for whose body there is no room at present."""
    message = (
        f"the bodies of other requests take all the {limit} bytes that may be held "
        "(BALANCER_MAX_BUFFERED_BYTES)"
    )
    headers = (*_RETRY, *_CLOSE)
    return ErrorResponse(503, "server_busy", message, "rejected", headers, "buffer_full")


def out_of_sockets(error: OutOfSockets) -> ErrorResponse:
    """Respond where this machine can make no connection more."""
    message = f"the balancer can open no connection to a server now: {error}"
    return ErrorResponse(503, "server_busy", message, "rejected", _RETRY)


def queue_full(error: Rejected) -> ErrorResponse:
    """Respond to a request for which there is no room where as many wait as may wait."""
    message = f"{error.ahead} requests wait already, and no more may (BALANCER_QUEUE_MAX)"
    return _rejected(429, "rate_limit_error", message, error, "queue_full")


def queue_timeout(error: QueueTimeout) -> ErrorResponse:
    """Respond to a request that has waited for too long."""
    ahead = f"{error.ahead} were still ahead" if error.ahead else "this one would have been next"
    message = (
        f"every server was busy for as long as a request may wait (BALANCER_QUEUE_TIMEOUT); {ahead}"
    )
    return _rejected(503, "server_busy", message, error, "queue_timeout")


def unconfigured() -> ErrorResponse:
    """Respond to a request that no server is configured for."""
    message = (
        "no server is configured for this; set BALANCER_SERVERS and BALANCER_MODELS "
        "(/llmhealth-monitor shows how)"
    )
    return ErrorResponse(404, "not_found_error", message, "client_error", rejection="no_route")


def servers_down(model: str, servers: Collection[str]) -> ErrorResponse:
    """Respond to a request whose model only servers have that cannot be reached."""
    message = f'"{model}" is on {", ".join(servers)} alone, which cannot be reached now'
    return ErrorResponse(503, "server_unavailable", message, "upstream_error", _RETRY)


def unknown_model(name: str, there: Sequence[str]) -> ErrorResponse:
    """Respond to a request for a model that no server has; `there` are those that there are."""
    names = ", ".join(there[:LISTED]) + (", …" if len(there) > LISTED else "")
    message = f'no server has the model "{name[:LONGEST_NAME]}"; there are: {names or "none"}'
    return ErrorResponse(404, "not_found_error", message, "client_error", rejection="no_route")


def unrouted(name: str, servers: Collection[str], path: str) -> ErrorResponse:
    """Respond to a request that is not routed, for a model that other servers have."""
    message = (
        f'the fallback server lacks the model "{name[:LONGEST_NAME]}", which '
        f"{', '.join(servers)} has; BALANCER_ROUTED_PATHS=all routes {path} by its model"
    )
    return ErrorResponse(404, "not_found_error", message, "client_error", rejection="no_route")


def too_long(overflow: Overflow, dialect: Dialect) -> ErrorResponse:
    """Respond to a prompt that fits into no server's context."""
    return ErrorResponse(400, KIND, dialect.too_long(overflow), "client_error")


def unauthorized() -> ErrorResponse:
    """Respond to a client that shows no key of ours (RFC 9110 section 15.5.2)."""
    message = "this needs an API key: `Authorization: Bearer` or `x-api-key`"
    headers = ((b"www-authenticate", b"Bearer"), *_CLOSE)
    return ErrorResponse(401, "authentication_error", message, "client_error", headers)


def key_busy(name: str, wait: float) -> ErrorResponse:
    """Respond to a request beyond what its key allows, to be tried again in `wait` seconds."""
    seconds = max(1, math.ceil(wait))
    message = f'the key "{name}" has reached its limits; it may be tried again in {seconds} s'
    retry = ((b"retry-after", b"%d" % seconds),)
    return ErrorResponse(429, "rate_limit_error", message, "rejected", retry, "key_limit")


def host_closed(host: bytes) -> ErrorResponse:
    """Respond to a request by a name that is not known to be ours."""
    message = f'"{host.decode("latin-1")}" is no name of this balancer: BALANCER_ALLOWED_HOSTS'
    return ErrorResponse(403, "permission_error", message, "client_error", _CLOSE)


def origin_closed(origin: bytes) -> ErrorResponse:
    """Respond to a page of a site that may not ask for models."""
    page = origin.decode("latin-1")[:256]
    message = f'pages of "{page}" may not use models here: BALANCER_CORS_ORIGINS'
    return ErrorResponse(403, "permission_error", message, "client_error", _CLOSE)


def model_closed(model: str) -> ErrorResponse:
    """Respond to a request for a model that the client's key does not allow."""
    message = f'this API key does not allow the model "{model}"'
    return ErrorResponse(403, "permission_error", message, "client_error")


def path_closed() -> ErrorResponse:
    """Respond to a request that could reach any model, where the key allows some alone."""
    message = (
        "this API key allows named models only, and this request is not routed by its model "
        "(BALANCER_ROUTED_PATHS)"
    )
    return ErrorResponse(403, "permission_error", message, "client_error", _CLOSE)


def hints_closed() -> ErrorResponse:
    """Respond to a request that would choose its server, where the key does not allow that."""
    message = "this API key may not choose servers (its `hints`)"
    return ErrorResponse(403, "permission_error", message, "client_error", _CLOSE)


def control_closed() -> ErrorResponse:
    """Respond to a request that would change a server."""
    message = "this changes a model server, which is closed to clients (BALANCER_PASS_CONTROL)"
    return ErrorResponse(403, "permission_error", message, "rejected", _CLOSE)


def loop_detected(server: str) -> ErrorResponse:
    """Respond to a request that a server has led back to us (RFC 5842 section 7.2)."""
    by = f"server {server}" if server else "a server"
    message = f"{by} leads back to this balancer: its address is not a model server's"
    return ErrorResponse(508, "loop_detected", message, "rejected", _CLOSE)


def server_failed(server: str, error: UpstreamError, before: Collection[str] = ()) -> ErrorResponse:
    """Respond for a server that has failed, as those `before` it had."""
    message = f"server {server}: {error}"
    if others := [name for name in before if name != server]:
        message += f"; before it {', '.join(others)} failed as well"
    if isinstance(error, TimedOut):
        return ErrorResponse(504, "upstream_timeout", message, "timeout", fault=error.kind)
    return ErrorResponse(502, "upstream_error", message, "upstream_error", fault=error.kind)


def cancelled() -> ErrorResponse:
    """Respond to a request that the administrator ends."""
    message = "the administrator has cancelled this request"
    return ErrorResponse(503, "request_cancelled", message, "rejected")


def shutting_down() -> ErrorResponse:
    """Respond to a request that the end of the balancer cuts short; no server is to blame."""
    return ErrorResponse(503, "server_shutdown", "the balancer is shutting down", "rejected")


def failed() -> ErrorResponse:
    """Respond for a fault of our own, which is in the log."""
    return ErrorResponse(500, "internal_error", "the balancer failed to serve this", None)


def _rejected(
    status: int, kind: str, message: str, error: Rejected, rejection: Rejection
) -> ErrorResponse:
    shortest, longest = RETRY_AFTER
    seconds = shortest
    if error.expected is not None:
        seconds = min(longest, max(shortest, math.ceil(error.expected)))
        message += f"; a place is expected in about {math.ceil(error.expected)} s"
    retry = ((b"retry-after", b"%d" % seconds),)
    return ErrorResponse(status, kind, message, "rejected", retry, rejection)
