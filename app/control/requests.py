"""The requests of the last time, and those under way: as rows, and to be cancelled."""

from collections.abc import Callable, Collection
from time import monotonic, time
from typing import Any

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.control.errors import error_response
from app.control.snapshot import Calendar, change_of_prompt
from app.proxy.exchange import Exchange
from app.telemetry.recent_requests import RecentRequests
from app.telemetry.record import Record

REQUESTS = "/llmhealth-requests"

log = structlog.get_logger(__name__)


class Requests:
    """Shows the requests that have ended lately, and those `underway`.

    `flush` has those that have just ended counted.
    """

    def __init__(
        self,
        recent: RecentRequests,
        underway: Collection[Exchange],
        flush: Callable[[], None] = lambda: None,
    ) -> None:
        self._recent = recent
        self._flush = flush
        self._underway = underway

    @property
    def last(self) -> int:
        """The number of the request that has ended last."""
        return self._recent.count

    def ended(self, after: int = 0) -> list[dict[str, Any]]:
        """Describe those behind a number, the newest last."""
        at = Calendar(monotonic(), time())
        return [_ended(number, record, at) for number, record in self._recent.after(after)]

    def under_way(self, most: int | None = None) -> list[dict[str, Any]]:
        """Describe those that have not ended, the oldest first, and `most` at the most."""
        at = Calendar(monotonic(), time())
        exchanges = sorted(self._underway, key=lambda one: one.record.started)
        return [{**_row(one.record, at), "state": one.state.value} for one in exchanges[:most]]

    def routes(self) -> APIRouter:
        """Build the routes."""
        router = APIRouter()

        @router.get(REQUESTS)
        async def requests() -> JSONResponse:
            """List the requests under way, and the last 500 that have ended."""
            self._flush()
            return JSONResponse({"under_way": self.under_way(), "ended": self.ended()})

        @router.delete(f"{REQUESTS}/{{id}}")
        async def cancel(id: str, request: Request) -> Response:  # noqa: A002
            """End the requests under way that have an id."""
            found = [one for one in self._underway if one.record.id == id]
            if not found:
                return error_response(404, f"no request {id!r} is under way")
            for one in found:
                one.cancel()
            log.info("admin.cancel", id=id, address=request.state.address)
            return JSONResponse({"cancelled": len(found)})

        return router


def _ended(number: int, record: Record, at: Calendar) -> dict[str, Any]:
    usage = record.spent()
    response = record.response
    first = None if response is None else response.first_token
    _, load, prompt, _ = record.phases()
    tokens = None
    if usage is not None:
        tokens = {
            "prompt": usage.prompt,
            "cached": usage.cached,
            "completion": usage.completion,
            "estimated": usage.estimated,
        }
    return {
        "number": number,
        **_row(record, at),
        "outcome": record.outcome or "internal_error",
        "status": record.status,
        "error": record.error,
        "tokens": tokens,
        "first_token_seconds": None if first is None else first - record.started,
        "load_seconds": load,
        "prompt_seconds": prompt,
        "seconds": record.ended - record.started,
    }


def _row(record: Record, at: Calendar) -> dict[str, Any]:
    """Describe what is known of a request from its placement on; times are in seconds."""
    lease = record.lease
    return {
        "id": record.id,
        "at": at.iso(record.started),
        "path": record.endpoint,
        "model": record.model,
        "asked_model": record.asked_model,
        "stream": record.stream,
        "client": record.identity,
        "username": record.username,
        "session": record.session,
        "server": record.server,
        "instance": record.instance,
        "slot": None if lease is None else lease.slot,
        "reason": record.reason,
        "held_seconds": 0.0 if lease is None else lease.held,
        "expected_seconds": None if lease is None else lease.expected,
        "considered": []
        if lease is None
        else [
            {"server": one.server, "read_seconds": one.read, "others_seconds": one.others}
            for one in lease.considered
        ],
        "expected_share": None
        if lease is None or lease.prediction is None
        else round(lease.prediction.share, 3),
        "change": None if lease is None else change_of_prompt(lease.change),
        "failures": [
            {"server": server, "fault": fault}
            for server, fault in zip(record.failures, record.faults, strict=False)
        ],
        "read_seconds": max(0.0, record.ready - record.started),
        "wait_seconds": record.waited,
        "sent_seconds": None if record.sent is None else record.sent - record.started,
    }
