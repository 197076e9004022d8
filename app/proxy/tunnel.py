"""Another protocol over a client's connection, a WebSocket say: bytes pass untouched."""

import asyncio
from collections.abc import Callable

from app.upstream.connection import Connection, Head

TakeOver = Callable[[asyncio.Protocol], asyncio.Transport]


class Tunnel(asyncio.Protocol):
    """Joins a client's transport and a server's connection after a `101`.

    The slower side slows the other down. `ended` is called when both are closed.
    """

    def __init__(self, connection: Connection, ended: Callable[[], None]) -> None:
        self._connection = connection
        self._ended = ended
        self._client: asyncio.Transport | None = None

    def open(self, take_over: TakeOver, head: Head, early: bytes) -> None:
        """Respond to the client with the server's head, and with what came after it already."""
        self._client = take_over(self)
        lines = [b"HTTP/1.1 101 Switching Protocols\r\n"]
        for name, value in head.headers:
            lines += (name, b": ", value, b"\r\n")
        self._client.write(b"".join([*lines, b"\r\n", early]))
        self._connection.hand_over(self)

    def close(self) -> None:
        """Close both sides."""
        self._connection.abort()
        if self._client is not None:
            self._client.abort()

    # The client's side: asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        if not self._connection.send(data) and self._client is not None:
            self._client.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._connection.abort()
        self._ended()

    def pause_writing(self) -> None:
        self._connection.pause()

    def resume_writing(self) -> None:
        self._connection.resume()

    # The server's side: upstream.connection.Receiver

    def on_response(self, head: Head | None, body: bytes, *, complete: bool) -> None:
        assert self._client is not None
        if body:
            self._client.write(body)
        if complete:
            self._client.close()

    def on_failed(self, error: Exception) -> None:
        if self._client is not None:
            self._client.abort()

    def on_drained(self) -> None:
        if self._client is not None and not self._client.is_closing():
            self._client.resume_reading()
