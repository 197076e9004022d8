"""What each client asked for in the last hour, and what it used."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final, NamedTuple

from app.telemetry.record import Record

OTHER: Final = "(other)"
MOST_KINDS: Final = 256
MOST_CHARACTERS: Final = 128

SERVED: Final = ("success", "client_disconnect")
"""How requests end that have not failed."""

Kind = tuple[str, str, str | None]
"""An address or a key, a model, and a user."""


class Used(NamedTuple):
    """What requests were and used; tokens of prompts include those from caches."""

    requests: int
    failed: int
    prompt: int
    cached: int
    completion: int


class _Sums:
    """What one kind of requests has used within a minute."""

    __slots__ = ("_taken", "cached", "completion", "failed", "prompt", "requests")

    def __init__(self) -> None:
        self.requests = self.failed = self.prompt = self.cached = self.completion = 0
        self._taken = Used(0, 0, 0, 0, 0)

    def add(self, record: Record) -> None:
        self.requests += 1
        if record.outcome not in SERVED:
            self.failed += 1
        usage = record.spent()
        if usage is not None:
            self.prompt += usage.prompt
            self.cached += usage.cached or 0
            self.completion += usage.completion

    def take(self) -> Used:
        """Return what has come since the last time."""
        before = self._taken
        self._taken = now = Used(
            self.requests, self.failed, self.prompt, self.cached, self.completion
        )
        return Used(*(new - old for new, old in zip(now, before, strict=True)))


class _Minute:
    __slots__ = ("counts", "first")

    def __init__(self, first: float) -> None:
        self.counts: dict[Kind, _Sums] = {}
        self.first = first


class AccessStats:
    """Counts model requests by address or key, model and user name, minute by minute.

    The last hour is the present minute and the 59 before it (`retention_hours` times as many
    for more hours). Clients choose what they send, so memory is bounded against them: names
    are cut to 128 characters, and each minute holds at most 256 combinations of address,
    model and user name apart. Requests beyond those are counted under "(other)", so that
    totals stay exact and the `unique_` numbers are lower bounds. At worst, about 15,000
    combinations of an hour are held, in some 10 MB.

    """

    def __init__(self, clock: Callable[[], float] = time.time, retention_hours: int = 1) -> None:
        self._clock = clock
        self._retention_hours = retention_hours
        self._kept = 60 * retention_hours
        self._minutes: dict[int, _Minute] = {}
        self._number = -1  # of the present minute, since the epoch
        self._counts: dict[Kind, _Sums] = {}
        self._fresh_from = 0
        """The first minute of which something may not have been taken."""
        self._newest = 0.0

    def finished(self, record: Record) -> None:
        """Count a request that has ended, if it was for a model."""
        if not record.model:
            return
        self._newest = now = self._clock()
        if now // 60 != self._number:
            self._turn(now)
        kind: Kind = record.identity, record.model, record.username
        sums = self._counts.get(kind)
        if sums is None:
            sums = self._begin(kind)
        sums.add(record)

    def fresh(self) -> Iterator[tuple[int, Kind, Used]]:
        """Take what has come since the last time: in which minute since the epoch, and of whom."""
        for number, minute in self._minutes.items():
            if number >= self._fresh_from:
                for kind, sums in minute.counts.items():
                    yield number, kind, sums.take()
        self._fresh_from = self._number

    def snapshot(self) -> dict[str, object]:
        """Report as `GET /access-log-stats` does; times are ISO 8601 in UTC."""
        minutes = self._recent()
        ips: Counter[str] = Counter()
        models: Counter[str] = Counter()
        usernames: Counter[str] = Counter()
        series: dict[str, int] = {}
        for number, minute in minutes:
            counts = minute.counts.copy()
            series[_iso(number * 60)] = sum(sums.requests for sums in counts.values())
            for (ip, model, username), sums in counts.items():
                ips[ip] += sums.requests
                models[model] += sums.requests
                if username is not None:
                    usernames[username] += sums.requests
        return {
            "total_requests": sum(series.values()),
            "unique_ips": len(ips),
            "unique_models": len(models),
            "unique_usernames": len(usernames),
            "ip_counts": dict(ips.most_common()),
            "model_counts": dict(models.most_common()),
            "username_counts": dict(usernames.most_common()),
            "time_series": series,
            "retention_hours": self._retention_hours,
            "oldest_log": _iso(minutes[0][1].first) if minutes else None,
            "newest_log": _iso(self._newest) if minutes else None,
        }

    def _recent(self) -> list[tuple[int, _Minute]]:
        present = int(self._clock() // 60)
        minutes = self._minutes.copy().items()
        return sorted(item for item in minutes if present - self._kept < item[0] <= present)

    def _turn(self, now: float) -> None:
        """Begin another minute, and forget those that are too old.

        A clock that was set back leaves minutes of the future behind; they go as well.
        """
        self._number = present = int(now // 60)
        kept = {n: m for n, m in self._minutes.items() if present - self._kept < n <= present}
        minute = kept.setdefault(present, _Minute(now))
        self._minutes = kept
        self._counts = minute.counts

    def _begin(self, kind: Kind) -> _Sums:
        """Return the sums of a kind that is not there as it stands."""
        ip, model, username = kind
        kind = (
            ip[:MOST_CHARACTERS],
            model[:MOST_CHARACTERS],
            None if username is None else username[:MOST_CHARACTERS],
        )
        if kind not in self._counts and len(self._counts) >= MOST_KINDS:
            kind = (OTHER, OTHER, None if username is None else OTHER)
        return self._counts.setdefault(kind, _Sums())


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
