"""Requests that come back to the balancer that sent them."""

import re
import secrets
from collections.abc import Iterable
from typing import Final

from app.proxy.headers import Headers, joined

HOPS: Final = b"x-balancer-hops"
"""Counts the balancers that a request has passed."""

MOST_HOPS: Final = 10
"""More balancers than anybody puts in a row: something strips `Via` in a circle."""


class Loops:
    """Marks what goes to servers, and knows it again (RFC 9110 section 7.6.3).

    Each server has a pseudonym of its own in `Via`, so that it can be named as the one that
    leads back; the rest of it is this process' alone.
    """

    def __init__(self, servers: Iterable[str]) -> None:
        self._me = f"llama-balancer-{secrets.token_hex(6)}"
        self._mine = re.compile(rf"{self._me}-([0-9]+)".encode())
        self._servers: list[str] = []
        self._marks: dict[str, bytes] = {}
        self._first: dict[str, bytes] = {}
        self.expect(servers)

    def expect(self, servers: Iterable[str]) -> None:
        """Have pseudonyms for these, too; those that there are stay as they are."""
        for name in servers:
            if name not in self._marks:
                mark = f"via: 1.1 {self._me}-{len(self._servers)}\r\n".encode()
                self._servers.append(name)
                self._marks[name] = mark
                self._first[name] = mark + b"x-balancer-hops: 1\r\n"

    def mark(self, server: str, hops: bytes | None) -> bytes:
        """Write the header lines for a request that came over so many `hops` to a server."""
        if hops is None:
            return self._first[server]
        return b"%bx-balancer-hops: %d\r\n" % (self._marks[server], _count(hops) + 1)

    def found(self, headers: Headers, hops: bytes | None) -> str | None:
        """Name the server that has led a request back here; empty where it is unknown.

        None where the request is no loop.
        """
        match = self._mine.search(joined(headers, b"via"))
        if match is not None:
            return self._servers[int(match[1])]
        return "" if _count(hops) >= MOST_HOPS else None


def _count(hops: bytes | None) -> int:
    return int(hops) if hops is not None and hops.isdigit() and len(hops) < 4 else 0
