"""Connections to the store, by its address.

Besides redis-py's own addresses there is one for Sentinel, which knows which of several stores is
the primary: `redis+sentinel://:password@10.0.0.1:26379,10.0.0.2:26379/mymaster/0`.

https://valkey.io/topics/sentinel/
"""

from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from redis.asyncio import Redis, Sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

SENTINEL: Final = "redis+sentinel://"
PORT: Final = 26379


class Sentinels(NamedTuple):
    """Where Sentinels are, and what they know."""

    hosts: list[tuple[str, int]]
    service: str
    database: int
    username: str | None
    password: str | None


def client(url: str, seconds: float) -> Redis:
    """Return a client that waits for so many seconds at the most, and tries nothing twice."""
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "retry": Retry(NoBackoff(), 0),
    }
    if not url.startswith(SENTINEL):
        return Redis.from_url(url, **options)
    found = sentinels(url)
    knowing: Any = Sentinel(found.hosts, sentinel_kwargs=options, **options)  # type: ignore[no-untyped-call]
    primary: Redis = knowing.master_for(
        found.service, db=found.database, username=found.username, password=found.password
    )
    return primary


def sentinels(url: str) -> Sentinels:
    """Read an address, which the settings have found to be one."""
    credentials, _, rest = url.removeprefix(SENTINEL).rpartition("@")
    places, _, path = rest.partition("/")
    service, _, database = path.partition("/")
    hosts = []
    for place in places.split(","):
        host, _, port = place.rpartition(":") if ":" in place else (place, "", str(PORT))
        hosts.append((host, int(port)))
    username, _, password = credentials.partition(":")
    return Sentinels(
        hosts, service, int(database or 0), unquote(username) or None, unquote(password) or None
    )
