"""Requests that ask for another protocol, and are served as all others."""

from typing import TYPE_CHECKING, cast

import httptools

if TYPE_CHECKING:
    from app.downstream.connection import ClientProtocol
    from app.downstream.cycle import Cycle

_FRAMING = (b"content-length", b"transfer-encoding")
"""Headers that tell how long a body is (RFC 9112 section 6)."""


def parse(client: "ClientProtocol", data: bytes) -> None:
    """Parse what a client sends, behind a head that asks for an upgrade as well.

    The request is served as any other (RFC 9110 section 7.8), and may have a body as any
    other: Java's client sends it with `Upgrade: h2c`. But httptools takes what follows such
    a head for another protocol or the next request, which might be smuggled in that way.

    Raises:
        HttpParserError: it is not HTTP.
    """
    while True:
        try:
            client.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            data = data[upgrade.args[0] :]
            _expect_body(client)
        else:
            return


def _expect_body(client: "ClientProtocol") -> None:
    """Have a parser that is where the body of the newest request begins, if it has one."""
    cycle = cast("Cycle", client.cycle)
    framing = [pair for pair in cycle.scope["headers"] if pair[0] in _FRAMING]
    if framing:
        cycle.more_body = True
        lines = [b"POST / HTTP/%b\r\n" % cycle.scope["http_version"].encode()]
        lines += [b"%b: %b\r\n" % pair for pair in framing]
        client.parser = httptools.HttpRequestParser(client)
        client.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        client.primes = True
        client.parser.feed_data(b"".join([*lines, b"\r\n"]))
        client.primes = False
