"""uvicorn's server, with connections of our own and deadlines for them."""

import asyncio
import ctypes
import functools
import gc
import math
import os
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

import uvicorn

from app.downstream.connection import ClientConnection, Handler
from app.downstream.connections import Connections

PROBE_AFTER = 60
"""Seconds of silence after which the system asks whether a client's machine is there."""

LAST_WORDS = 0.5
"""Seconds that clients have to read why their requests were cut short."""


KEEP_ALIVE = 75
"""Seconds that a client's idle connection is kept: longer than clients keep theirs, so that
they never send a request into a connection that is about to be closed."""


def config(
    handler: Handler, app: Any, connections: Connections | None = None, **options: Any
) -> uvicorn.Config:
    """Configure uvicorn to pass all requests to a handler.

    `app` is an ASGI application that is told of the start and the end alone; `options` are
    uvicorn's.
    """
    if connections is None:
        connections = Connections()
    connection = functools.partial(ClientConnection, handler, connections)
    http = cast("type[asyncio.Protocol]", connection)
    defaults: dict[str, Any] = {
        "access_log": False,
        "interface": "asgi3",  # uvicorn takes a bound method for the older kind
        "log_config": None,
        "proxy_headers": False,
        "timeout_keep_alive": KEEP_ALIVE,
        "ws": "none",
    }
    return uvicorn.Config(app, http=http, **(defaults | options))


M_MMAP_THRESHOLD = -3
MAPPED = 512 * 1024
"""From how many bytes on memory comes from the system and goes back to it."""


class CannotListen(Exception):
    """The address or the port cannot be had; the message says why."""


class Server(uvicorn.Server):
    """A server that says when it listens, and when it begins to stop while requests still run.

    It ends requests and responses that have come to a standstill, of which uvicorn waits for the
    end for ever: after `silence` seconds, or uvicorn's own for connections that are idle.
    `failed` is told of a round over the connections that failed. After a signal it listens for
    `delay` seconds more.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        stopping: Callable[[], None],
        *,
        listening: Callable[[], None] = lambda: None,
        delay: float = 0.0,
        silence: float = 300.0,
        failed: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(config)
        self._listening = listening
        self._failed = failed
        self._stopping = stopping
        self._silence = silence
        self._hurries = False
        self._delay = delay

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen.

        Raises:
            CannotListen: another program does, or the address is not this machine's.
        """
        if sockets is None:
            sockets = listeners(self.config.host, self.config.port)
        await super().startup(sockets)
        for server in self.servers:
            for listener in server.sockets:
                _ask_for_life(listener, self._silence)
        self._listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests under way end within the grace time, or until asked once more to stop."""
        self._stopping()
        await self._pass(self._delay)
        grace = self.config.timeout_graceful_shutdown
        if grace is not None:
            self.config.timeout_graceful_shutdown = grace + 2  # if all else fails
        ending = asyncio.create_task(self._end_grace(grace))
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:  # asked again, and if need be once more
            self.force_exit, self._hurries = self._hurries, True
        else:
            super().handle_exit(sig, frame)

    async def _pass(self, seconds: float) -> None:
        """Let so many seconds pass, or until there is a hurry."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while loop.time() < end and not self._hurries:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # as uvicorn does: signals wake nobody

    async def _end_grace(self, grace: float | None) -> None:
        """Cut short what is under way after so many seconds, or as soon as there is a hurry."""
        await self._pass(math.inf if grace is None else grace)
        for client in self._clients():
            client.cut_short()
        await asyncio.sleep(LAST_WORDS)
        for client in self._clients():
            client.transport.abort()
        for task in list(self.server_state.tasks):
            task.cancel()

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # each second
            try:
                self.check_clients(asyncio.get_running_loop().time())
            except Exception:  # noqa: BLE001 - logged and counted
                self._failed("clients")
        return await super().on_tick(counter)

    def check_clients(self, now: float) -> None:
        """End what has come to a standstill, at the loop's time `now`."""
        keep_alive = self.config.timeout_keep_alive
        for client in self._clients():
            client.check_deadlines(now, keep_alive=keep_alive, silence=self._silence)

    def _clients(self) -> list[ClientConnection]:
        connections = cast("set[object]", self.server_state.connections)
        return [c for c in connections if isinstance(c, ClientConnection)]


def listeners(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of a host; `::` stands for all, IPv4's as well.

    asyncio leaves those out (RFC 3493 section 5.3).

    Raises:
        CannotListen: another program does, or the address is not this machine's.
    """
    try:
        if host == "::" and socket.has_dualstack_ipv6():
            return [_listener(("::", port), socket.AF_INET6, dualstack_ipv6=True)]
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return [_listener(address, family) for family, address in {(x[0], x[4]) for x in found}]
    except OSError as error:
        raise CannotListen(os.strerror(error.errno) if error.errno else str(error)) from error


def _listener(address: Any, family: int, **options: bool) -> socket.socket:
    listener = socket.create_server(address, family=family, **options)
    listener.setblocking(False)
    return listener


def _ask_for_life(listener: socket.socket, silence: float) -> None:
    """Have the system notice clients that vanish without a word, as when their link breaks.

    What it accepts inherits these options on Linux. Elsewhere there are its own deadlines.
    """
    if sys.platform == "linux":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_AFTER)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(silence * 1000))


def allow_many_files() -> None:
    """Let the process have as many sockets as the machine allows: a stream needs two."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def return_memory() -> None:
    """Have glibc give memory back to the system as soon as a long body or text is free.

    By itself it does so only for the first ones: each that is freed raises the size from which it
    asks the system (https://man7.org/linux/man-pages/man3/mallopt.3.html, M_MMAP_THRESHOLD).
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # musl has none
            libc.mallopt(M_MMAP_THRESHOLD, MAPPED)


def collect_garbage_rarely() -> None:
    """Spare requests the collector's work: they leave no cycles behind, connections few."""
    gc.freeze()  # what is there now, modules and the like, is not searched again
    # A lost connection waits for it with 2 KB: they must not pile up in the older generations.
    gc.set_threshold(20_000, 5, 5)
