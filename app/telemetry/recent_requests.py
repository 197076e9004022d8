"""The last model requests that have ended."""

from collections import deque
from typing import Final

from app.telemetry.record import Record

MOST: Final = 500
"""So many are remembered."""


class RecentRequests:
    """Remembers the last requests, each by a number that counts up."""

    def __init__(self, most: int = MOST) -> None:
        self.count = 0
        """How many there have been."""
        self._kept: deque[Record] = deque(maxlen=most)

    def finished(self, record: Record) -> None:
        """Remember a request that has ended, if it was for a model."""
        if record.model:
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
