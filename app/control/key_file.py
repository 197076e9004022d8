"""Takes in what changes in the file of API keys, without a restart."""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from app.keys.key_ring import Key, KeyRing
from app.telemetry import logs

INTERVAL = 1.0
"""Seconds between two looks at the file."""

log = structlog.get_logger(__name__)


class KeyFile:
    """Watches a file of keys. `read` returns all keys there are, or raises a ValueError.

    A file that cannot be read, or has a mistake in it, changes nothing, and is told once.
    """

    def __init__(
        self, path: Path, keys: KeyRing, read: Callable[[], Iterable[tuple[str, Key]]]
    ) -> None:
        self._path = path
        self._keys = keys
        self._read = read
        self._seen = self._look()

    async def watch(self) -> None:
        """Look at the file again and again, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                self.look()
            except Exception:  # noqa: BLE001 - logged and counted
                logs.task_failed("keys")

    def look(self) -> None:
        """Take the keys anew if the file has changed."""
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            keys = list(self._read())
        except ValueError as error:
            log.warning("keys.unchanged", file=str(self._path), error=str(error))
            return
        self._keys.replace(keys)
        log.info("keys.changed", file=str(self._path), keys=len(keys))

    def _look(self) -> tuple[int, ...]:
        """Return what is another for a file that was written anew, or replaced."""
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino
