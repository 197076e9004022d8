"""The end of a connection whose client is still sending."""

import asyncio

from app.downstream.reading import TURN, rest

LINGER = 5.0
"""Seconds that a client has to read what it was told last, and to close."""


class LingeringClose(asyncio.Protocol):
    """Discards what a client still sends after its response, until it closes.

    Were the connection closed at once, what comes then would have the client's machine discard
    the response before it is read (RFC 9112 section 9.6). `before` is the protocol that the
    connection had until now; its `connection_lost` is called.
    """

    def __init__(self, transport: asyncio.Transport, before: asyncio.Protocol) -> None:
        self._transport = transport
        self._before = before
        self._end = asyncio.get_running_loop().call_later(LINGER, transport.abort)
        transport.set_protocol(self)
        try:
            transport.write_eof()
            transport.resume_reading()
        except OSError:  # the client has reset the connection in this moment
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if len(data) >= TURN:
            rest(self._transport, self._read_on)

    def _read_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._end.cancel()
        self._before.connection_lost(error)
