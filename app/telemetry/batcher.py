"""Finished requests on their way to those who count and log them."""

import asyncio
from collections.abc import Callable
from typing import Final

from app.telemetry import logs
from app.telemetry.record import Record

PAUSE: Final = 0.02
"""Seconds that a record may wait for others; more would not fit into the caches, either."""


class Batcher:
    """Tells listeners of finished requests, many at a time and off the requests' path.

    One after another between requests, they would cost twice as much: their code would have
    left the processor's caches each time. A fault in a listener touches neither a request
    nor the other listeners.
    """

    def __init__(self, *listeners: Callable[[Record], None]) -> None:
        self._listeners = listeners
        self._records: list[Record] = []

    def put(self, record: Record) -> None:
        """Take in a finished request; the listeners hear of it soon."""
        if not self._records:
            asyncio.get_running_loop().call_later(PAUSE, self.flush)
        self._records.append(record)

    def flush(self) -> None:
        """Pass all records on to the listeners."""
        records, self._records = self._records, []
        for listener in self._listeners:
            for record in records:
                try:
                    listener(record)
                except Exception:  # noqa: BLE001 - logged and counted
                    logs.task_failed("telemetry")
