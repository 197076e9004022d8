"""The connections to one server: dialled, kept alive, watched for silence."""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, cast
from urllib.parse import urlsplit

from app.upstream.connection import HEAD_SECONDS, Connection
from app.upstream.dialler import Dialler

KEEP_ALIVE: Final = 4.0
"""Seconds that an idle connection is kept: less than the five after which llama.cpp's
server, uvicorn and others close theirs, so that both sides rarely decide at once."""

TRUSTED = 0.1
"""Seconds of idleness up to which a kept connection is believed to stay open for a request that
must not be repeated. Dialling anew costs less than the smallest part of a model's response."""

MARGIN: Final = 0.01
"""Seconds by which a server may close a connection earlier than the last time."""

BELIEVED: Final = 60.0
"""Seconds for which it is believed that a server closes idle connections as early as it did."""


RESOLVED = 60.0
"""Seconds for which it is believed that a server's name still leads to where it did."""


class Pool:
    """Keep-alive connections to one server, the one used last taken first.

    The pool never queues and never limits: how many requests a server gets is the
    balancer's decision. All timeouts are in seconds: `connect_timeout` to get a connection,
    `first_byte_timeout` from the request to the first byte, `idle_timeout` between two
    pieces of the response, `linger` from a cancel until the server counts as stopped. `failed`
    is told of a round over the connections that failed. Every request gets `headers`, in place
    of those of these names that it has; `context` is for TLS. With an `address` that is
    dialled, whatever the name in `base` leads to.
    """

    def __init__(
        self,
        base: str,
        *,
        connect_timeout: float = 5.0,
        first_byte_timeout: float = 300.0,
        idle_timeout: float = 300.0,
        keep_alive: float = KEEP_ALIVE,
        linger: float = 1.0,
        failed: Callable[..., None] = lambda *_, **__: None,
        headers: Mapping[str, str] = MappingProxyType({}),
        context: ssl.SSLContext | None = None,
        address: str | None = None,
    ) -> None:
        url = urlsplit(base)
        self.base = base.encode("ascii")
        self.authority = url.netloc.encode("ascii")
        self.prefix = url.path.encode("ascii")
        """What stands before the paths of all requests."""
        self.headers = headers
        self.lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode(
            "latin-1"
        )
        """The headers, as they are written."""
        self.replaced = frozenset(name.lower().encode("ascii") for name in headers)
        """Their names, in lower case."""
        self._dialler = Dialler(base, context, address)
        self._keep_alive = keep_alive
        self._failed = failed
        self._idle: dict[Connection, float] = {}  # since when; the newest last
        self._busy: set[Connection] = set()
        self._lingering: set[Connection] = set()
        self._round: asyncio.TimerHandle | None = None
        self.change(
            connect_timeout=connect_timeout,
            first_byte_timeout=first_byte_timeout,
            idle_timeout=idle_timeout,
            linger=linger,
        )
        self._trusted = TRUSTED
        self._learnt_at = -BELIEVED

    def change(
        self,
        *,
        connect_timeout: float,
        first_byte_timeout: float,
        idle_timeout: float,
        linger: float,
    ) -> None:
        """Keep to other timeouts from now on, see `Pool`."""
        self._connect_timeout = connect_timeout
        self._first_byte_timeout = first_byte_timeout
        self._idle_timeout = idle_timeout
        self._linger = linger
        shortest = min(self._keep_alive, first_byte_timeout, idle_timeout)
        self._pause = min(1.0, min(shortest, linger or shortest) / 4)

    async def connect(self, *, fresh: bool = False, repeatable: bool = False) -> Connection:
        """Take a kept connection, or dial.

        `fresh` always dials; `repeatable` also takes a connection that the server may be about
        to close, since the request may be sent twice.

        Raises:
            Unreachable: the server refused, could not be found, or took too long.
        """
        return (None if fresh else self.kept(repeatable=repeatable)) or await self.dial()

    def kept(self, *, repeatable: bool = False) -> Connection | None:
        """Take a kept connection, if there is one that can be trusted with the request."""
        idle = self._idle
        while idle:
            connection, since = idle.popitem()
            if not repeatable and connection.now() - since > self._trusted:
                idle[connection] = since
                return None
            if self._dialler.by_name and connection.now() - connection.made_at > RESOLVED:
                connection.close()
            elif connection.usable:
                self._busy.add(connection)
                return connection
        return None

    async def dial(self, within: float | None = None) -> Connection:
        """Make a connection `within` so many seconds, or within `connect_timeout`.

        Raises:
            Unreachable: the server refused, could not be found, or took too long.
        """
        protocol = await self._dialler.dial(
            lambda: cast("asyncio.Protocol", Connection(self)),
            self._connect_timeout if within is None else within,
        )
        connection = cast("Connection", protocol)
        self._busy.add(connection)
        self._go_on()
        return connection

    @property
    def in_use(self) -> bool:
        """Whether it has any connection, at work or kept."""
        return bool(self._idle or self._busy or self._lingering)

    def close(self) -> None:
        """Close every connection, whatever it is doing."""
        if self._round is not None:
            self._round.cancel()
            self._round = None
        for connection in [*self._idle, *self._busy, *self._lingering]:
            connection.abort()

    # What connections tell

    def on_idle(self, connection: Connection) -> None:
        self._busy.discard(connection)
        self._idle[connection] = connection.heard_at

    def on_cancelled(self, connection: Connection) -> None:
        self._busy.discard(connection)
        if not self._linger:
            connection.abort()
            return
        self._lingering.add(connection)
        self._go_on()

    def on_lost(self, connection: Connection) -> None:
        self._busy.discard(connection)
        since = self._idle.pop(connection, None)
        if since is not None:
            self._learn_keep_alive(connection.now(), since)

    # Inside

    def _learn_keep_alive(self, now: float, since: float) -> None:
        """Trust idle connections for half as long as one was kept that the server closed."""
        if now - self._learnt_at >= BELIEVED:
            self._trusted = TRUSTED
        trusted = max(0.0, (now - since) / 2 - MARGIN)
        if trusted <= self._trusted:
            self._trusted = trusted
            self._learnt_at = now

    def _go_on(self) -> None:
        if self._round is None:
            self._round = asyncio.get_running_loop().call_later(self._pause, self._go_round)

    def _go_round(self) -> None:
        """Look after all connections, and again later, whatever happens.

        One timer for all connections costs nothing per request; it is late by a quarter of
        the shortest timeout at the most, and by a second at the most.
        """
        self._round = None
        try:
            self._look_after(asyncio.get_running_loop().time())
        except Exception:  # noqa: BLE001 - logged and counted
            self._failed("pool", server=self.authority.decode())
        if self.in_use:
            self._go_on()

    def _look_after(self, now: float) -> None:
        """Close what was idle for too long, and give up on servers that keep silent."""
        self._look_after_idle(now)
        self._look_after_busy(now)

    def _look_after_idle(self, now: float) -> None:
        if self._trusted < TRUSTED and now - self._learnt_at >= BELIEVED:
            self._trusted = TRUSTED
        for connection, since in list(self._idle.items()):
            if now - since >= self._keep_alive:
                del self._idle[connection]
                connection.close()
        for connection in list(self._lingering):
            # The server counts from when it heard of it, so it gets one round more.
            if not connection.lingers or connection.give_up(now, self._linger + self._pause):
                self._lingering.discard(connection)

    def _look_after_busy(self, now: float) -> None:
        for connection in list(self._busy):
            silence = now - connection.heard_at
            if connection.paused:
                continue  # we are the ones who do not read
            if connection.answering:
                if silence >= self._idle_timeout:
                    connection.time_out(f"silent for {self._idle_timeout:g} s")
            elif silence >= self._first_byte_timeout:
                connection.time_out(f"no response within {self._first_byte_timeout:g} s")
            elif connection.head_takes_long(now):
                connection.time_out(f"the head did not come within {HEAD_SECONDS:g} s")

    def __repr__(self) -> str:
        return f"<Pool {self.authority.decode()}: {len(self._busy)} busy, {len(self._idle)} idle>"
