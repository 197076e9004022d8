"""Several processes that serve one address, so that more than one core does.

All take connections from the same socket; each has one of its own besides, at the ports that
follow, since whoever counts (Prometheus) must know which process responds.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

from app.downstream.server import listeners

VARIABLE: Final = "LLAMA_BALANCER_WORKER"
"""Tells a process that it is a worker, and what it has been given."""

SOON: Final = 10.0
"""Seconds within which a worker has never served that gives up: then all stop."""

REST: Final = 1.0
"""Seconds until a worker that has ended is started again."""


@dataclass(frozen=True)
class Worker:
    """One of the processes."""

    number: int
    """From 1 on."""
    files: list[int]
    """The descriptors of its sockets."""
    key: str
    """The key by which commands of this user are known."""

    @classmethod
    def here(cls) -> "Worker | None":
        """Return the worker that this process is, if it is one."""
        told = os.environ.get(VARIABLE)
        return None if told is None else cls(**json.loads(told))

    def sockets(self) -> list[socket.socket]:
        """Return its sockets."""
        return [socket.socket(fileno=file) for file in self.files]

    def stop_with_parent(self) -> None:
        """Stop once the process is gone that has started this one, in the running event loop.

        Nobody ever writes into the pipe that is our standard input: it ends with its writer.
        """
        loop = asyncio.get_running_loop()

        def stop() -> None:
            loop.remove_reader(0)
            os.kill(os.getpid(), signal.SIGTERM)

        loop.add_reader(0, stop)


class Workers:
    """Starts the workers, again if need be, and passes on what they are signalled.

    `ended` is told of a worker that ended by itself: its number and exit status.
    """

    def __init__(
        self, host: str, port: int, count: int, key: str, ended: Callable[[int, int], None]
    ) -> None:
        """Listen.

        Raises:
            CannotListen: another program does, or the address is not this machine's.
        """
        self._shared = listeners(host, port)
        self._own = [listeners(host, port + number) for number in range(1, count + 1)]
        self._key = key
        self._ended = ended
        self._running: set[asyncio.subprocess.Process] = set()
        self._stopping = asyncio.Event()
        self._failed = False

    def run(self) -> bool:
        """Have them serve until a signal says to stop; whether all went well."""
        asyncio.run(self._run())
        return not self._failed

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._pass_on, signal.SIGHUP)
        await asyncio.gather(*(self._keep(number) for number in range(1, len(self._own) + 1)))

    async def _keep(self, number: int) -> None:
        """Have one worker serve, again and again."""
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            begun = loop.time()
            process = await self._start(number)
            self._running.add(process)
            status = await process.wait()
            self._running.discard(process)
            if self._stopping.is_set():
                self._failed = self._failed or status != 0
                return
            self._ended(number, status)
            if status > 0 and loop.time() - begun < SOON:
                self._failed = True
                self._stop(signal.SIGTERM)
                return
            await asyncio.sleep(REST)

    async def _start(self, number: int) -> asyncio.subprocess.Process:
        files = [one.fileno() for one in (*self._shared, *self._own[number - 1])]
        told = json.dumps(asdict(Worker(number, files, self._key)))
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "app", *sys.argv[1:]),
            env={**os.environ, VARIABLE: told},
            pass_fds=files,
            stdin=subprocess.PIPE,
            start_new_session=True,  # what a terminal signals comes through us
        )

    def _stop(self, number: int) -> None:
        self._stopping.set()
        self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        for process in self._running:
            process.send_signal(number)
