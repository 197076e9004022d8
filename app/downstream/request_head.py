"""What is asked of a request's head beyond what the parser asks, before anybody is served."""

import functools
import re
from typing import Final

Headers = list[tuple[bytes, bytes]]

HEAD_LIMIT: Final = 64 * 1024
"""Longest head of a request, or trailers, in bytes."""

FIELDS_LIMIT: Final = 100
"""Most header fields of a request."""

VERSIONS: Final = ("1.1", "1.0")

LONGEST_HOST: Final = 262
"""A name of 255 bytes (RFC 1035 section 2.3.4), brackets and a port."""

_HOST: Final = re.compile(
    rb"(\[[0-9A-Fa-f:.]+(%25[\w.~-]+)?\]|[\w.~!$&'()*+,;=%-]*)(:\d*)?",
)
"""A host, and a port where there is one (RFC 9110 section 7.2, RFC 3986 section 3.2.2)."""


class BadHead(Exception):
    """A head is refused, with a status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def check_head(version: str, headers: Headers) -> None:
    """Refuse what a server might understand in another way than we do.

    Raises:
        BadHead: it is not as RFC 9112 has it (sections 2.3, 3.2 and 6.1), or has too many fields.
    """
    if version not in VERSIONS:
        raise BadHead(505, "this server speaks HTTP/1.1 and 1.0")
    if len(headers) > FIELDS_LIMIT:
        raise BadHead(431, f"the head has more than {FIELDS_LIMIT} fields")
    hosts = 0
    for name, value in headers:
        if name == b"host":
            hosts += 1
            if len(value) > LONGEST_HOST or not _is_host(value):
                raise BadHead(400, "the Host field names no host")
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked":
                raise BadHead(501, "no transfer coding is known but chunked")
            if version == "1.0":
                raise BadHead(400, "HTTP/1.0 knows no transfer codings")
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise BadHead(400, "there must be one Host field")


def check_size(url: bytes, headers: Headers) -> None:
    """Refuse a head that is too long, though all of it has come.

    Raises:
        BadHead: it is.
    """
    size = len(url) + sum([len(name) + len(value) + len(b": \r\n") for name, value in headers])
    if size > HEAD_LIMIT:
        raise BadHead(431, f"the head is longer than {HEAD_LIMIT} bytes")


def _matches(host: bytes) -> bool:
    return _HOST.fullmatch(host) is not None


_is_host: Final = functools.lru_cache(256)(_matches)
