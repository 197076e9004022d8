"""An ASGI app on a socket of this machine, for as long as a `with` block lasts."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import uvicorn

from app.downstream.server import Server

Loop = Literal["auto", "asyncio", "uvloop"]

STOP_SECONDS = 1
"""How long requests under way may take to end once the block is left."""


class Serving(Server):
    """uvicorn on a free port of 127.0.0.1, in a thread with an event loop of its own."""

    def __init__(self, config: uvicorn.Config, stopping: Callable[[], None]) -> None:
        super().__init__(config, stopping)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._serve_here, name=self.url, daemon=True)

    def start(self) -> None:
        """Serve from now on.

        Raises:
            RuntimeError: the app did not start; the log tells why.
        """
        self._thread.start()
        self._begun.wait()
        if not self.started:
            self._thread.join()
            raise RuntimeError("the app did not start")

    def stop(self) -> None:
        """Stop: no new connections, and requests under way have a second to end."""
        self.should_exit = True
        self._thread.join(STOP_SECONDS + 20)
        assert not self._thread.is_alive(), "the server does not stop"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._begun.set()

    def _serve_here(self) -> None:
        try:
            self.run([self._socket])
        except SystemExit:
            pass  # uvicorn's word for an app that does not start; `start` has its own
        finally:
            self._socket.close()
            self._begun.set()


@contextmanager
def serving(
    app: Any,
    *,
    loop: Loop = "auto",
    stopping: Callable[[], None] = lambda: None,
    **options: Any,
) -> Iterator[Serving]:
    """Serve an app; `options` are uvicorn's, `stopping` is called when the server begins to stop.

    `loop` is asyncio's own or uvloop; "auto" takes uvloop where there is one.
    """
    defaults: dict[str, Any] = {
        "access_log": False,
        "interface": "asgi3",  # uvicorn takes a bound method for the older kind
        "log_config": None,
        "log_level": "warning",
        "timeout_graceful_shutdown": STOP_SECONDS,
        "ws": "none",
    }
    server = Serving(uvicorn.Config(app, loop=loop, **(defaults | options)), stopping)
    server.start()
    try:
        yield server
    finally:
        server.stop()
