"""Which pages may ask for models: one policy in place of each server's own.

https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from app.downstream.hosts import host_name

ANY: Final = "*"

HERE: Final = ("localhost", "127.0.0.1", "0.0.0.0", "::1")  # noqa: S104 - it is compared

WEB: Final = ("http", "https")
"""Schemes of pages from the web; those with another are of applications, or of extensions."""

EXPOSED: Final = (
    b"retry-after, x-balancer-server, x-balancer-instance, x-balancer-reason, x-balancer-model, "
    b"x-request-id"
)
"""Headers that a page's script may read besides those that it always may."""

METHODS: Final = b"GET, HEAD, POST, PUT, PATCH, DELETE"

LIFETIME: Final = b"7200"
"""How long a browser may keep a preflight's response, in seconds: the most that any keeps it."""

LONGEST: Final = 4096
"""Longest list of headers that a browser may ask for, in bytes."""

Headers = tuple[tuple[bytes, bytes], ...]


class Cors:
    """Decides which origins may ask, and writes the headers for browsers.

    An origin is a page's scheme, host and port (RFC 6454). `origins` are those that may, where
    `*` stands for any text; without any, pages of this machine and applications may. Pages
    that came from our own address always may.
    """

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self._origins = tuple(origin.lower() for origin in origins)
        self._any = ANY in self._origins

    def allows(self, origin: bytes, host: bytes) -> bool:
        """Whether a page may ask; `host` is the request's own `Host` field."""
        if self._any:
            return True
        text = origin.decode("latin-1").lower()
        try:
            parts = urlsplit(text)
            name = parts.hostname or ""
        except ValueError:
            return False
        if parts.scheme in WEB and parts.netloc == host.decode("latin-1").lower():
            return True
        if self._origins:
            return any(_matches(pattern, text) for pattern in self._origins)
        if parts.scheme in WEB:
            return name in HERE or name.endswith(".localhost") or name == host_name(host)
        return bool(parts.scheme)  # `null` has none: any site can make such pages

    def grant(self, origin: bytes, host: bytes) -> Headers:
        """Return the headers that let a page read a response; none where it may not."""
        if not self.allows(origin, host):
            return ()
        exposed = (b"access-control-expose-headers", EXPOSED)
        if self._any:
            return (b"access-control-allow-origin", b"*"), exposed
        return (b"access-control-allow-origin", origin), exposed, (b"vary", b"origin")


def preflight(fields: Mapping[bytes, bytes]) -> Headers:
    """Return the headers that let a page send the request that it asks about.

    They go with those that let it read the response.
    """
    headers = fields.get(b"access-control-request-headers", b"")
    allowed: Headers = (
        (b"access-control-allow-methods", METHODS),
        (b"access-control-allow-headers", headers[:LONGEST]),
        (b"access-control-max-age", LIFETIME),
    )
    if b"access-control-request-private-network" in fields:
        allowed += ((b"access-control-allow-private-network", b"true"),)
    return allowed


def is_preflight(method: str, fields: Mapping[bytes, bytes]) -> bool:
    """Whether a request is a browser's preflight (CORS)."""
    asks = b"origin" in fields and b"access-control-request-method" in fields
    return method == "OPTIONS" and asks


def _matches(pattern: str, origin: str) -> bool:
    """Whether an origin is a pattern's, where `*` stands for any text."""
    start, star, end = pattern.partition("*")
    if not star:
        return origin == pattern
    long_enough = len(origin) >= len(start) + len(end)
    return long_enough and origin.startswith(start) and origin.endswith(end)
