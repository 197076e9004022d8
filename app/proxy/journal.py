"""The account that is kept of each request, from its head to its end."""

import itertools
import re
import secrets
from collections import Counter
from collections.abc import Callable, Collection
from time import monotonic
from typing import Any

from app.downstream.forwarded import Origin
from app.proxy.exchange import Exchange
from app.proxy.headers import joined, peer_of
from app.telemetry.record import Record

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class Journal:
    """Opens a record for each request, and hands it over in the end.

    A POST to one of the `model_paths` is a model request, told by its path; all others are
    `other`. `finished` is told of every record; `in_flight` counts those that are open.
    """

    def __init__(
        self,
        *,
        origin: Origin,
        model_paths: Collection[str],
        finished: Callable[[Record], None],
        in_flight: Counter[str] | None = None,
    ) -> None:
        self._origin = origin
        self._model_paths = frozenset(model_paths)
        self._finished = finished
        self._in_flight: Counter[str] = Counter() if in_flight is None else in_flight
        self._ids = map((secrets.token_hex(6) + "-{:x}").format, itertools.count(1))

    def open(self, scope: dict[str, Any], receive: Any, send: Any) -> Exchange:
        """Begin with a request whose head is there."""
        path = scope["path"]
        model_request = path in self._model_paths and scope["method"] == "POST"
        peer = peer_of(scope)
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

    def close(self, exchange: Exchange) -> None:
        """Let go of a request that has ended, however it did."""
        record = exchange.record
        exchange.close()
        self._in_flight[record.endpoint] -= 1
        record.ended = monotonic()
        self._finished(record)

    def _request_id(self, given: bytes | None) -> str:
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given.decode("ascii")
        return next(self._ids)
