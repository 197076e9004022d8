"""uvicorn, with what it lacks for a proxy."""

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.web.tunnel import TAKE_OVER


class ClientProtocol(HttpToolsProtocol):
    """A client's connection.

    - The request that is being served learns that the client left even when another one was
      pipelined behind it; uvicorn tells the newest only.
    - Trailers of a chunked request are dropped. uvicorn adds them to the headers, where they
      could pass for what a proxy in front of us has checked (RFC 9110 section 6.5.1).
    - A connection can be taken over by another protocol (`llama_balancer.take_over`).
    """

    _running: RequestResponseCycle | None = None
    _in_head = False

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        cast("dict[str, Any]", self.scope)["extensions"] = {TAKE_OVER: self._take_over}

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        running = self._running
        if running is not None and running is not self.cycle and not running.response_complete:
            running.disconnected = True
            running.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: whether to upgrade is the server's decision."""

    def _take_over(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        self.cycle.disconnected = True  # uvicorn must not answer any more
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        self.flow.resume_reading()
        self.transport.set_protocol(protocol)
        return self.transport


class Server(uvicorn.Server):
    """A server that says when it begins to stop, while the requests under way still run."""

    def __init__(self, config: uvicorn.Config, stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping()
        await super().shutdown(sockets)


def allow_many_files() -> None:
    """Let the process have as many sockets as the machine allows: a stream needs two."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
