"""What passes between client and server in the heads of messages, and what does not."""

import functools
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import quote

Headers = Iterable[tuple[bytes, bytes]]

UNBUFFERED: Final = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
"""Have proxies between us and the client pass a stream on as it comes.

https://nginx.org/en/docs/http/ngx_http_proxy_module.html#proxy_buffering
"""

LONGEST_RETRY_AFTER: Final = 300.0
"""Seconds that a server is left alone at most, whatever it asks for."""

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Meant for the next hop alone (RFC 9110 section 7.6.1, and its older list)."""

OURS: Final[frozenset[bytes]] = HOP_BY_HOP | {
    b"content-length",
    b"expect",
    b"forwarded",
    b"host",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-real-ip",
    b"x-balancer-avoid",
    b"x-balancer-hops",
    b"x-balancer-prefer",
    b"x-request-id",
}
"""What a request to a server says in our words, not the client's."""


def nominated(headers: Headers) -> frozenset[bytes]:
    """Name the headers that `Connection` says are for the next hop alone."""
    names = [
        token.strip().lower()
        for name, value in headers
        if name == b"connection"
        for token in value.split(b",")
    ]
    return frozenset(names) if names else frozenset()


def without_cookie(headers: Headers, cookie: bytes) -> list[tuple[bytes, bytes]]:
    """Return headers without one cookie of that name (RFC 6265 section 4.2.1)."""
    kept: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        left = value
        if name == b"cookie" and cookie in value:
            parts = [part.strip() for part in value.split(b";")]
            left = b"; ".join([part for part in parts if part.partition(b"=")[0] != cookie])
        if left or not value:
            kept.append((name, left))
    return kept


def joined(headers: Headers, wanted: bytes) -> bytes:
    """Write the lines of one header as the one that they stand for (RFC 9110 section 5.3)."""
    return b", ".join(value for name, value in headers if name == wanted)


def request_head(
    method: str,
    target: bytes,
    headers: Headers,
    *,
    authority: bytes,
    forwarded: bytes,
    length: bytes | None,
    upgrade: bytes | None = None,
    drop: frozenset[bytes] = OURS,
) -> bytes:
    """Write the head of a request to a server.

    `target` is the path and query as they came. `forwarded` are our own header lines.
    `length` is the body's length in digits, `b"chunked"`, or None where there is no body.
    `drop` names the headers that the server does not get.
    """
    for name, _ in headers:
        if name == b"connection":
            drop |= nominated(headers)
            break
    lines = [method.encode("ascii"), b" ", target, b" HTTP/1.1\r\nhost: ", authority, b"\r\n"]
    for name, value in headers:
        if name not in drop:
            lines.append(b"%b: %b\r\n" % (name, value))
    lines.append(forwarded)
    if length == b"chunked":
        lines.append(b"transfer-encoding: chunked\r\n")
    elif length is not None:
        lines += (b"content-length: ", length, b"\r\n")
    if upgrade is not None:
        lines += (b"connection: upgrade\r\nupgrade: ", upgrade, b"\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)


def editable(headers: Headers, *, whole: bool = False) -> bool:
    """Whether a body of ours may be longer than the server's: no encoding, no length told.

    The length of a body that is there as a `whole` can be told anew.
    """
    for name, _ in headers:
        if name == b"content-encoding" or (name == b"content-length" and not whole):
            return False
    return True


def unbuffered(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return what a stream's headers lack, so that proxies pass it on as it comes."""
    names = [name for name, _ in headers]
    return [pair for pair in UNBUFFERED if pair[0] not in names]


def response_headers(
    status: int,
    headers: list[tuple[bytes, bytes]],
    *,
    base: bytes,
    prefix: bytes = b"",
    whole: bool = False,
) -> list[tuple[bytes, bytes]]:
    """Choose what of a response's headers the client gets.

    A `Location` under the server's own address `base` becomes relative, and loses the `prefix`
    of its paths: clients know only ours. Its request id gives way to ours. A 204 or 304 keeps no
    `Content-Length`: there is no body that it could describe. One that is there as a `whole`
    gets a length of our own.
    """
    drop = HOP_BY_HOP
    kept: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        if name in HOP_BY_HOP or name in drop:
            if name == b"connection" and drop is HOP_BY_HOP:
                drop = HOP_BY_HOP | nominated(headers)
                kept = [(n, v) for n, v in kept if n not in drop]
        elif name == b"location" and value.startswith(base + b"/"):
            kept.append((name, value[len(base) :]))
        elif name == b"location" and prefix and value.startswith(prefix + b"/"):
            kept.append((name, value[len(prefix) :]))
        elif name == b"x-request-id" or (
            name == b"content-length" and (whole or status in (204, 304))
        ):
            continue
        else:
            kept.append((name, value))
    return kept


def retry_after(headers: Headers, now: float) -> float:
    """Read how many seconds a server wants to be left alone (RFC 9110 section 10.2.3); 0 if not.

    `now` is in seconds since the epoch. More than `LONGEST_RETRY_AFTER` is not believed.
    """
    for name, value in headers:
        if name == b"retry-after":
            text = value.decode("latin-1").strip()
            if text.isascii() and text.isdecimal():
                return min(float(text[:9]), LONGEST_RETRY_AFTER)
            when = _date(text)
            return 0.0 if when is None else min(max(0.0, when - now), LONGEST_RETRY_AFTER)
    return 0.0


def _date(text: str) -> float | None:
    """Read a date as HTTP writes it, in seconds since the epoch (section 5.6.7)."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


@functools.lru_cache(1024)
def route_headers(server: str, instance: str, reason: str) -> tuple[tuple[bytes, bytes], ...]:
    """Write for a client where its request went, and why.

    What cannot stand in a header is percent-encoded (RFC 3986 section 2.1).
    """
    return tuple(
        (b"x-balancer-" + name, quote(value, safe=_PLAIN).encode())
        for name, value in ((b"server", server), (b"instance", instance), (b"reason", reason))
        if value
    )


def instead_header(model: str) -> tuple[bytes, bytes]:
    """Write for a client which model has responded in place of the one that it asked for."""
    return b"x-balancer-model", quote(model, safe=_PLAIN).encode()


_PLAIN: Final = " !\"#$&'()*+,-./:;<=>?@[]^_`{|}~"
