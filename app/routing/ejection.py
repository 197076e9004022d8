"""Whether a server is left alone for a while, because real requests failed there."""

from typing import Final

from app.routing.ledger import Fault, Lease

FAILURES: Final = 3
"""Failures in a row that eject a server."""

SHORTEST, LONGEST = 1.0, 60.0
"""Seconds that the first ejection lasts, and the longest: each doubles the one before."""

JITTER: Final = 0.2
"""The part by which an ejection may last longer, so that servers do not come back together."""

UNTRIED: Final = 30.0
"""Seconds after which an ejection is over that nobody has tried: clients stay where they are."""

SLOW_START: Final = 10.0
"""Seconds after its return in which a server gets more requests step by step."""

UNPROVEN: Final = 4
"""Requests at once that a server gets which has not completed any, while others have room."""

AT_ONCE: Final[tuple[Fault, ...]] = ("read_timeout", "status_429")
"""One of these is enough: a silence as long as a timeout, and a server's own word."""


class Ejection:
    """The failures of one server's requests, as an outlier detection (as Envoy's) counts them.

    An ejected server gets no request until its time is over, and then one, the trial: a
    success brings it back, a failure ejects it for twice as long. Where no request comes for a
    trial, it is back by itself. Times are in seconds.
    """

    __slots__ = (
        "_began",
        "_completed",
        "_failures",
        "_level",
        "_returned",
        "_trial",
        "_unproven",
        "quiet",
        "reason",
        "until",
    )

    def __init__(self) -> None:
        self.until: float | None = None
        """When the trial may be made; None unless ejected."""
        self.reason: Fault | None = None
        """What it was ejected for last."""
        self.quiet = False
        """Whether there is nothing to consider: it has completed requests, and no failure."""
        self._unproven = True
        self._failures = self._level = self._completed = 0
        self._began = 0.0
        self._returned: float | None = None
        self._trial: Lease | None = None

    @property
    def ejected(self) -> bool:
        """Whether it was ejected, and no trial has succeeded since."""
        return self.until is not None

    def bars(self, now: float) -> bool:
        """Whether it should get no request now."""
        return self.until is not None and (self._trial is not None or now < self.until)

    def slows(self, in_flight: int, now: float) -> bool:
        """Whether others with room should get a request before it does.

        After a return it gets one more at once for each that was completed, and each second.
        """
        if self._unproven:
            return in_flight >= UNPROVEN
        if self._returned is None:
            return False
        since = now - self._returned
        return since < SLOW_START and in_flight >= 1 + self._completed + int(since)

    def booked(self, lease: Lease, now: float) -> None:
        """Note a lease: the first one after an ejection is the trial."""
        if self.until is not None and self._trial is None and now >= self.until:
            self._trial = lease

    def lapse(self, now: float) -> None:
        """End an ejection whose trial nobody makes; the next failure is enough for another."""
        if self.until is not None and self._trial is None and now >= self.until + UNTRIED:
            self.until = None
            self._returned = now
            self._completed = 0
            self._failures = FAILURES - 1

    def follow(self, fault: Fault, now: float, until: float) -> None:
        """Leave it alone as another replica does, which has seen it fail."""
        if self.until is None and until > now:
            self.quiet = False
            self.until, self.reason = until, fault
            self._began = now
            self._failures = 0
            self._returned = None

    def restore(self, now: float) -> None:
        """Have it back, as another replica has, unless our own trial is under way."""
        if self.until is not None and self._trial is None:
            self.until = None
            self._returned = now
            self._completed = 0

    def failed(self, lease: Lease, fault: Fault, now: float, chance: float) -> bool:
        """Note a request that failed; tell whether the server is ejected for it.

        `chance`, from 0 to 1, decides how much longer than its due time that lasts. A server
        that said when to come back is not asked before.
        """
        trial = self._end_trial(lease)
        self.quiet = False
        if self.until is not None and not trial:
            self.until = max(self.until, now + lease.retry_after)
            return False  # it was sent before the ejection, or because no other was left
        self._failures += 1
        if not (trial or lease.retry_after or fault in AT_ONCE or self._failures >= FAILURES):
            return False
        pause = min(LONGEST, SHORTEST * 2**self._level) * (1 + JITTER * chance)
        self.until = now + max(pause, lease.retry_after)
        self.reason = fault
        self._began = now
        self._level += 1
        self._failures = 0
        self._returned = None
        return True

    def completed(self, lease: Lease, now: float) -> bool:
        """Note a request that succeeded; tell whether that brings the server back."""
        trial = self._end_trial(lease)
        self._unproven = False
        self._failures = 0
        self._completed += 1
        if self.until is not None:
            if not trial and lease.since < self._began:
                return False  # it was sent before the ejection: no word about what came after
            self.until = None
            self._returned = now
            self._completed = 0
            return True
        if self._returned is None or now - self._returned >= SLOW_START:
            self._returned = None
            self._level = 0
            self.quiet = True
        return False

    def given_up(self, lease: Lease) -> None:
        """Note a request that ended without a word about the server, as its client left."""
        self._end_trial(lease)

    def _end_trial(self, lease: Lease) -> bool:
        if self._trial is not lease:
            return False
        self._trial = None
        return True
