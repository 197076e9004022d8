"""The log on its way out: a thread writes it, so that nobody who reads it holds requests up."""

import atexit
import contextlib
import os
import select
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, TextIO

BACKLOG: Final = 4 * 1024 * 1024
"""How much waits to be written, in bytes: some 10,000 lines. What exceeds it is dropped."""

FAREWELL: Final = 1.0
"""How long the end of the program waits for what is not written yet, in seconds."""

dropped: Final[Counter[str]] = Counter(lines=0)
"""Lines that were not written since the start, as nobody had read those before."""


class LogWriter:
    """Takes text as a stream does, and writes it to a file descriptor in a thread of its own.

    Where a pipe is full since its reader has stalled, a bounded part of the log waits, and the
    rest is dropped and counted. Where it is closed, or a disk is full, nobody minds.

    `told` is called with the number of lines that were dropped, once there is room again.
    """

    def __init__(self, descriptor: int, told: Callable[[int], object] = lambda _: None) -> None:
        self._descriptor = descriptor
        self._told = told
        self._pending: deque[bytes] = deque()
        self._size = 0
        self._lost = 0
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None

    def write(self, text: str) -> int:
        """Take a text in; it is written soon, or dropped."""
        data = text.encode(errors="backslashreplace")
        with self._changed:
            if self._size + len(data) > BACKLOG:
                lines = text.count("\n")
                self._lost += lines
                dropped["lines"] += lines
                return len(text)
            lost, self._lost = self._lost, 0
            self._pending.append(data)
            self._size += len(data)
            self._changed.notify_all()
        if self._worker is None:
            self._start()
        if lost:
            self._told(lost)
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread writes as fast as is read."""

    def finish(self, seconds: float = FAREWELL) -> None:
        """Wait until all is written, for so many seconds at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._size, seconds)

    def _start(self) -> None:
        # As a daemon it lets the program end, though nobody reads.
        self._worker = threading.Thread(target=self._work, name="log", daemon=True)
        self._worker.start()
        atexit.register(self.finish)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending)
                data = self._pending.popleft()
            with contextlib.suppress(OSError):
                self._put(data)
            with self._changed:
                self._size -= len(data)
                self._changed.notify_all()

    def _put(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # whoever gave it to us has made it so
                select.select([], [self._descriptor], [])


def writer_to(stream: TextIO, told: Callable[[int], object]) -> LogWriter | TextIO:
    """Return what writes to a stream; the stream itself where it has no file descriptor.

    Windows' consoles take text from their own stream alone.
    """
    if os.name == "nt":
        return stream
    try:
        return LogWriter(stream.fileno(), told)
    except OSError:
        return stream
