"""How many requests may be sent to a second server."""

from typing import Final

FOR_ONE: Final = 5
"""Requests that earn a retry: so many are a fifth of all at most."""

LEAST: Final = 3.0
"""Retries that are allowed in each second, however few requests there are."""

MOST: Final = 500
"""Requests that are counted, so that a quiet hour saves up no more than 100 retries."""


class RetryBudget:
    """Keeps retries from doubling the load of servers that all turn requests away.

    As in Finagle's and Envoy's budgets: requests earn retries, and a few are free.
    """

    def __init__(self) -> None:
        self._earned = 0
        self._free = LEAST
        self._counted_at = 0.0

    def earn(self) -> None:
        """Count a request."""
        if self._earned < MOST:
            self._earned += 1

    def spend(self, now: float) -> bool:
        """Take one retry at a time in seconds; False where none is left."""
        self._free = min(LEAST, self._free + LEAST * max(0.0, now - self._counted_at))
        self._counted_at = now
        if self._free >= 1:
            self._free -= 1
        elif self._earned >= FOR_ONE:
            self._earned -= FOR_ONE
        else:
            return False
        return True

    def give_back(self) -> None:
        """Return a retry that was not made."""
        self._earned += FOR_ONE
