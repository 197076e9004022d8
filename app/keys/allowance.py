"""How much the holder of a key may ask: at once, and in a minute."""

from collections import deque
from typing import Final

MINUTE: Final = 60.0


class Allowance:
    """What one key may do at most, and what was done with it.

    A minute is any 60 seconds, not one of the clock's: nobody gets twice as much around its
    turn. It is used from one thread, so the limits hold exactly.
    """

    __slots__ = ("_admitted", "in_flight", "request_max", "requests_per_minute")

    def __init__(
        self, request_max: int | None = None, requests_per_minute: int | None = None
    ) -> None:
        self.request_max = request_max
        self.requests_per_minute = requests_per_minute
        self.in_flight = 0
        self._admitted: deque[float] = deque()
        """When requests of the last minute were admitted; none where nothing bounds them."""

    def enter(self, now: float) -> float | None:
        """Admit a request; or return in how many seconds it may be tried again.

        `now` is on the monotonic clock, in seconds. None is returned where it is admitted: it
        must then `leave` once.
        """
        if self.request_max is not None and self.in_flight >= self.request_max:
            return 0.0  # nobody knows how long the others take
        most = self.requests_per_minute
        if most is not None:
            admitted = self._admitted
            while admitted and now - admitted[0] >= MINUTE:
                admitted.popleft()
            if len(admitted) >= most:
                return MINUTE - (now - admitted[len(admitted) - most])
            admitted.append(now)
        self.in_flight += 1
        return None

    def changed(self, other: "Allowance") -> "Allowance":
        """Take the limits of another from now on."""
        self.request_max = other.request_max
        self.requests_per_minute = other.requests_per_minute
        return self

    def leave(self) -> None:
        """Let a request go that has ended."""
        self.in_flight -= 1
