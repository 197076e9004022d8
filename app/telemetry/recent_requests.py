"""The last model requests that have ended."""

import math
from collections import deque
from typing import Final

from app.telemetry.record import Record

MOST: Final = 500
"""So many are remembered."""


WINDOW: Final = 0.1
"""Seconds."""

MOST_IN_WINDOW: Final = 100
"""So many are remembered within that time: nobody reads more, and what is kept is not reused."""


class RecentRequests:
    """Remembers the last requests, each by a number that counts up.

    Of more than a thousand a second only those are remembered that failed, and some of the others:
    memory that is given back at once is still in the processor's caches for the next request.
    """

    def __init__(self, most: int = MOST) -> None:
        self.count = 0
        """How many were remembered so far."""
        self._begun = -math.inf
        self._room = 0
        self._kept: deque[Record] = deque(maxlen=most)

    def finished(self, record: Record) -> None:
        """Remember a request that has ended, if it was for a model."""
        if not record.model:
            return
        if record.ended - self._begun >= WINDOW:
            self._begun, self._room = record.ended, MOST_IN_WINDOW
        if self._room <= 0 and record.outcome == "success":
            return
        self._room -= 1
        self.count += 1
        self._kept.append(record)

    def after(self, number: int) -> list[tuple[int, Record]]:
        """List those behind a number that are remembered, the newest last."""
        first = self.count - len(self._kept)
        return [
            (first + index, record)
            for index, record in enumerate(self._kept, 1)
            if first + index > number
        ]
