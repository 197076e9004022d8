"""uvicorn's server, with deadlines for its clients."""

import asyncio
import gc
import socket
import sys
from collections.abc import Callable

import uvicorn

from app.web.client import ClientProtocol


class Server(uvicorn.Server):
    """A server that says when it begins to stop, while the requests under way still run.

    It closes connections on which no head of a request has come for too long, whether they
    are idle or tell it letter by letter: uvicorn has no deadline for the latter.
    """

    def __init__(self, config: uvicorn.Config, stopping: Callable[[], None]) -> None:
        super().__init__(config)
        self._stopping = stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # each second
            self._close_idle(asyncio.get_running_loop().time() - self.config.timeout_keep_alive)
        return await super().on_tick(counter)

    def _close_idle(self, before: float) -> None:
        for client in list(self.server_state.connections):
            if (
                isinstance(client, ClientProtocol)
                and client.waits_since is not None
                and client.waits_since < before
            ):
                client.transport.close()


def allow_many_files() -> None:
    """Let the process have as many sockets as the machine allows: a stream needs two."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def collect_garbage_rarely() -> None:
    """Spare requests the collector's work: they leave no cycles behind, connections few."""
    gc.freeze()  # what is there now, modules and the like, is not searched again
    gc.set_threshold(20_000, 20, 20)
