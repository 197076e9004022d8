"""What a client is told that gets no answer of a server, or not all of it."""

import math
from collections.abc import Collection

import structlog

from app.apis.json_body import BadRequest
from app.proxy.exchange import Exchange
from app.proxy.queue import QueueFull, QueueTimeout, TurnedAway
from app.proxy.upload import BodyTooLarge
from app.upstream.errors import TimedOut, UpstreamError

RETRY_AFTER = 5, 60
"""A client that was turned away may try again after so many seconds at least, and at most."""

REFUSED = (BadRequest, BodyTooLarge, TurnedAway)
"""What `refuse` has words for."""

log = structlog.get_logger(__name__)

_CLOSE = ((b"connection", b"close"),)


class AnswerBroken(Exception):
    """The answer ended too early: the server in front of us must not end it properly."""


async def refuse(exchange: Exchange, error: Exception) -> None:
    """Answer a request that cannot be served: malformed, too long, or one too many."""
    record = exchange.record
    match error:
        case BodyTooLarge(limit=limit):
            message = f"the body is longer than {limit} bytes (BALANCER_MAX_BODY_BYTES)"
            await exchange.refuse(413, "invalid_request_error", message, _CLOSE)
        case QueueFull():
            record.outcome, record.rejection = "rejected", "queue_full"
            message = f"{error.ahead} requests are waiting already, as many as may"
            await _turn_away(exchange, 429, "rate_limit_error", message, error)
        case QueueTimeout():
            record.outcome, record.rejection = "rejected", "queue_timeout"
            message = (
                "every server was busy for the whole time that a request may wait; "
                f"{error.ahead} others were still ahead"
            )
            await _turn_away(exchange, 503, "server_busy", message, error)
        case _:
            await exchange.refuse(400, "invalid_request_error", str(error))


async def refuse_unconfigured(exchange: Exchange) -> None:
    """Answer a request that no server is configured for."""
    message = (
        "no server is configured for this; set BALANCER_SERVERS and BALANCER_MODELS "
        "(/llmhealth-monitor shows how)"
    )
    exchange.record.rejection = "no_route"
    await exchange.refuse(404, "not_found_error", message)


async def refuse_down(exchange: Exchange, model: str, servers: Collection[str]) -> None:
    """Answer a request whose model only servers have that cannot be reached."""
    record = exchange.record
    record.outcome = "upstream_error"
    names = ", ".join(servers)
    message = f'"{model}" is on {names} alone, which cannot be reached now'
    retry = (b"retry-after", b"%d" % RETRY_AFTER[0])
    await exchange.refuse(503, "server_unavailable", message, (retry,))


async def refuse_loop(exchange: Exchange, server: str) -> None:
    """Answer a request that has come back (RFC 5842 section 7.2)."""
    by = f"server {server}" if server else "a server"
    message = f"{by} leads back to this balancer: its address is not a model server's"
    log.warning("loop.detected", server=server, id=exchange.record.id)
    exchange.record.outcome = "rejected"
    await exchange.refuse(508, "loop_detected", message, _CLOSE)


async def give_up(exchange: Exchange, error: UpstreamError) -> None:
    """Tell that the server failed."""
    record = exchange.record
    record.fault = error.kind
    message = f"server {record.server}: {error}"
    if isinstance(error, TimedOut):
        record.outcome = "timeout"
        await _end_badly(exchange, 504, "upstream_timeout", message)
    else:
        record.outcome = "upstream_error"
        await _end_badly(exchange, 502, "upstream_error", message)


async def cut_short(exchange: Exchange) -> None:
    """Tell that the balancer stops; no server is to blame."""
    exchange.record.outcome = "rejected"
    await _end_badly(exchange, 503, "server_shutdown", "the balancer is shutting down")


async def _end_badly(exchange: Exchange, status: int, kind: str, message: str) -> None:
    """Tell of an error in whatever way is still open."""
    if exchange.started:
        exchange.record.error = message
        await exchange.break_off(status, kind, message)
        raise AnswerBroken(message)
    await exchange.refuse(status, kind, message)


async def _turn_away(
    exchange: Exchange, status: int, kind: str, message: str, why: TurnedAway
) -> None:
    shortest, longest = RETRY_AFTER
    seconds = shortest
    if why.expected is not None:
        seconds = min(longest, max(shortest, math.ceil(why.expected)))
        message += f"; a place is expected in about {math.ceil(why.expected)} s"
    await exchange.refuse(status, kind, message, ((b"retry-after", b"%d" % seconds),))
