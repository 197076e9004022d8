"""The connections to one server: dialled, kept alive, watched for silence."""

import asyncio
import socket
import ssl
from urllib.parse import urlsplit

from app.upstream.errors import Unanswered, Unreachable
from app.upstream.wire import Connection

KEEP_ALIVE = 4.0
"""Seconds that an idle connection is kept: less than the five after which llama.cpp's
server, uvicorn and others close theirs, so that both sides rarely decide at once."""


class Pool:
    """Keep-alive connections to one server, the one used last taken first.

    The pool never queues and never limits: how many requests a server gets is the
    balancer's decision. All timeouts are in seconds: `connect_timeout` to get a connection,
    `first_byte_timeout` from the request to the first byte, `idle_timeout` between two
    pieces of the answer.
    """

    def __init__(
        self,
        base: str,
        *,
        connect_timeout: float = 5.0,
        first_byte_timeout: float = 300.0,
        idle_timeout: float = 300.0,
        keep_alive: float = KEEP_ALIVE,
    ) -> None:
        self.base = base.encode("ascii")
        address = urlsplit(base)
        tls = address.scheme == "https"
        self.authority = address.netloc.encode("ascii")
        self._host = address.hostname or ""
        self._port = address.port or (443 if tls else 80)
        self._tls = ssl.create_default_context() if tls else None
        self._connect_timeout = connect_timeout
        self._first_byte_timeout = first_byte_timeout
        self._idle_timeout = idle_timeout
        self._keep_alive = keep_alive
        self._idle: dict[Connection, float] = {}  # since when; the newest last
        self._busy: set[Connection] = set()
        self._round: asyncio.TimerHandle | None = None
        self._pause = min(1.0, min(keep_alive, first_byte_timeout, idle_timeout) / 4)

    async def connect(self, *, fresh: bool = False) -> Connection:
        """Take a kept connection, or dial.

        `fresh` always dials: what is sent may not be sent twice, so it may not meet a
        connection that the server is about to close.

        Raises:
            Unreachable: the server refused, could not be found, or took too long.
        """
        return (None if fresh else self.kept()) or await self._dial()

    def kept(self) -> Connection | None:
        """Take a kept connection, if there is one."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.usable:
                self._busy.add(connection)
                return connection
        return None

    async def _dial(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, connection = await loop.create_connection(
                    lambda: Connection(self._keep, self._forget),
                    self._host,
                    self._port,
                    ssl=self._tls,
                )
        except TimeoutError:
            raise Unanswered(f"no connection within {self._connect_timeout:g} s") from None
        except OSError as error:
            raise Unreachable(_in_words(error)) from error
        self._busy.add(connection)
        if self._round is None:
            self._round = loop.call_later(self._pause, self._go_round)
        return connection

    def close(self) -> None:
        """Close every connection, whatever it is doing."""
        if self._round is not None:
            self._round.cancel()
            self._round = None
        for connection in [*self._idle, *self._busy]:
            connection.abort()

    def _keep(self, connection: Connection) -> None:
        self._busy.discard(connection)
        self._idle[connection] = connection.heard_at

    def _forget(self, connection: Connection) -> None:
        self._busy.discard(connection)
        self._idle.pop(connection, None)

    def _go_round(self) -> None:
        """Close what was idle for too long, and give up on servers that keep silent.

        One timer for all connections costs nothing per request; it is late by a quarter of
        the shortest timeout at the most, and by a second at the most.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection, since in list(self._idle.items()):
            if now - since >= self._keep_alive:
                connection.close()
        for connection in list(self._busy):
            silence = now - connection.heard_at
            if connection.paused:
                continue  # we are the ones who do not read
            if not connection.answering and silence >= self._first_byte_timeout:
                connection.time_out(f"no answer within {self._first_byte_timeout:g} s")
            elif connection.answering and silence >= self._idle_timeout:
                connection.time_out(f"silent for {self._idle_timeout:g} s")
        if self._idle or self._busy:
            self._round = loop.call_later(self._pause, self._go_round)
        else:
            self._round = None

    def __repr__(self) -> str:
        return f"<Pool {self.authority.decode()}: {len(self._busy)} busy, {len(self._idle)} idle>"


def _in_words(error: OSError) -> str:
    """Say why there is no connection, without the address: clients read it."""
    if isinstance(error, ConnectionRefusedError):
        return "it refuses connections"
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved"
    if isinstance(error, ssl.SSLError):
        return "no TLS session came about"
    return f"it cannot be reached ({type(error).__name__})"
