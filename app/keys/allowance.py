"""How much the holder of a key may ask: at once, and in a minute."""

from collections import deque
from typing import Final, NamedTuple

MINUTE: Final = 60.0


class Rate:
    """How much was used in the last minute, and how much may be.

    A minute is any 60 seconds, not one of the clock's: nobody gets twice as much around its
    turn.
    """

    __slots__ = ("_used", "most", "total")

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        """None where nothing bounds it: then nothing is counted either."""
        self.total = 0
        self._used: deque[tuple[float, int]] = deque()

    def wait(self, now: float, pending: int = 0) -> float | None:
        """Return in how many seconds something is left, None where something is now.

        `pending` is what is not counted yet, and may be any time.
        """
        if self.most is None:
            return None
        used = self._used
        while used and now - used[0][0] >= MINUTE:
            self.total -= used.popleft()[1]
        if self.total + pending < self.most:
            return None
        if pending >= self.most:
            return 0.0  # nobody knows how long the others take
        left = self.total + pending
        for at, amount in used:
            left -= amount
            if left < self.most:
                return MINUTE - (now - at)
        return 0.0

    def count(self, now: float, amount: int = 1) -> None:
        """Count what is used; `now` is on the monotonic clock, in seconds."""
        if self.most is not None and amount:
            self._used.append((now, amount))
            self.total += amount


class Spent(NamedTuple):
    """What a key has in flight, and has used in the last minute."""

    in_flight: int
    requests: int
    tokens: int


NOTHING: Final = Spent(0, 0, 0)


class Allowance:
    """What one key may do at most, and what was done with it.

    It is used from one thread, so the limits hold exactly. How many tokens a request costs is
    known in its end: the last one that is admitted may exceed what is left of them.
    """

    __slots__ = ("_requests", "_reserved", "_tokens", "in_flight", "others", "request_max")

    def __init__(
        self,
        request_max: int | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
    ) -> None:
        self.request_max = request_max
        self._requests = Rate(requests_per_minute)
        self._tokens = Rate(tokens_per_minute)
        self.in_flight = 0
        self.others = NOTHING
        """What the key has used at other replicas of the balancer."""
        self._reserved = 0
        """How many tokens the prompts in flight may have."""

    def enter(self, now: float, tokens: int = 0) -> float | None:
        """Admit a request; or return in how many seconds it may be tried again.

        `now` is on the monotonic clock, in seconds; `tokens` is how many its prompt may have.
        None is returned where it is admitted: it must then `leave` once.
        """
        in_flight, requests, tokens_used = self.others
        if self.request_max is not None and self.in_flight + in_flight >= self.request_max:
            return 0.0  # nobody knows how long the others take
        longest = self._requests.wait(now, requests)
        wait = self._tokens.wait(now, self._reserved + tokens_used)
        if longest is None or (wait is not None and wait > longest):
            longest = wait
        if longest is not None:
            return longest
        self._requests.count(now)
        self._reserved += tokens
        self.in_flight += 1
        return None

    def leave(self, now: float, tokens: int = 0, used: int = 0) -> None:
        """Let a request go that has ended: the `tokens` it entered with, and those it `used`."""
        self.in_flight -= 1
        self._reserved -= tokens
        self._tokens.count(now, used)

    @property
    def limits(self) -> tuple[int | None, int | None, int | None]:
        """The most at once, the most requests a minute and tokens; None where nothing bounds."""
        return self.request_max, self._requests.most, self._tokens.most

    def spent(self, now: float) -> Spent:
        """Return what was used here in the last minute, prompts in flight included."""
        self._requests.wait(now)
        self._tokens.wait(now)  # these forget what is longer ago
        return Spent(self.in_flight, self._requests.total, self._tokens.total + self._reserved)

    def changed(self, other: "Allowance") -> "Allowance":
        """Take the limits of another from now on."""
        self.request_max = other.request_max
        self._requests.most = other._requests.most
        self._tokens.most = other._tokens.most
        return self
