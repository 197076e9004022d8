"""The models that each client asked for in the last hour."""

import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from app.telemetry.record import Record

OTHER: Final = "(other)"
MOST_KINDS: Final = 256
MOST_CHARACTERS: Final = 128

Kind = tuple[str, str, str | None]


class _Minute:
    __slots__ = ("counts", "first")

    def __init__(self, first: float) -> None:
        self.counts: dict[Kind, int] = {}
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
        self._counts: dict[Kind, int] = {}
        self._newest = 0.0

    def finished(self, record: Record) -> None:
        """Count a request that has ended, if it was for a model."""
        if record.model:
            self.record(record.identity, record.model, record.username)

    def record(self, ip: str, model: str, username: str | None) -> None:
        """Count one request; `username` is None where it is not known."""
        self._newest = now = self._clock()
        if now // 60 != self._number:
            self._turn(now)
        try:
            self._counts[ip, model, username] += 1
        except KeyError:
            self._count_rare(ip, model, username)

    def snapshot(self) -> dict[str, object]:
        """Report as `GET /access-log-stats` does; times are ISO 8601 in UTC."""
        minutes = self._recent()
        ips: Counter[str] = Counter()
        models: Counter[str] = Counter()
        usernames: Counter[str] = Counter()
        series: dict[str, int] = {}
        for number, minute in minutes:
            counts = minute.counts.copy()
            series[_iso(number * 60)] = sum(counts.values())
            for (ip, model, username), count in counts.items():
                ips[ip] += count
                models[model] += count
                if username is not None:
                    usernames[username] += count
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

    def _count_rare(self, ip: str, model: str, username: str | None) -> None:
        kind: Kind = (
            ip[:MOST_CHARACTERS],
            model[:MOST_CHARACTERS],
            None if username is None else username[:MOST_CHARACTERS],
        )
        if kind not in self._counts and len(self._counts) >= MOST_KINDS:
            kind = (OTHER, OTHER, None if username is None else OTHER)
        self._counts[kind] = self._counts.get(kind, 0) + 1


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
