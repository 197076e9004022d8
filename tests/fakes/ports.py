"""Ports of this machine for those that a test starts."""

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator
from typing import Final

FIRST: Final = 20_000
"""Below what the system gives to whoever asks for any port: nobody else gets these meanwhile."""

COUNT: Final = 2_500
"""How many each of the processes has that run tests at once, four at the most."""


def _ports() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4
    begin = os.getpid() % COUNT  # others may test on this machine, too
    for number in itertools.count(begin):
        yield FIRST + COUNT * worker + number % COUNT


_next = _ports()


def free_port() -> int:
    """Find a port on which nothing listens."""
    while True:
        port = next(_next)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
