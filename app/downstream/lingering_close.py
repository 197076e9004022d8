"""The end of a connection whose client is still sending."""

import asyncio

LINGER = 5.0
"""Seconds that a client has to read what it was told last, and to close."""


class Linger(asyncio.Protocol):
    """Reads on, for nothing, what a client sends that was told an error meanwhile.

    Were the connection closed at once, what comes then would have the client's machine throw
    the error away before it is read (RFC 9112 section 9.6). `before` is the protocol that the
    connection had until now, and hears of its end.
    """

    def __init__(self, transport: asyncio.Transport, before: asyncio.Protocol) -> None:
        self._before = before
        self._end = asyncio.get_running_loop().call_later(LINGER, transport.abort)
        transport.set_protocol(self)
        transport.write_eof()
        transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._end.cancel()
        self._before.connection_lost(error)
