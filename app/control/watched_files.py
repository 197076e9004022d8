"""Files, and folders of files, that are read again when they change, without a restart."""

import asyncio
import inspect
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from app.telemetry import logs

INTERVAL = 1.0
"""Seconds between two looks at the files."""

log = structlog.get_logger(__name__)


class WatchedFiles:
    """Watches files, and has them read again where one of them changes.

    `read` takes in what they hold now, or raises ValueError or OSError: files that cannot be
    read, or have a mistake in them, change nothing, and are logged once. `name` is what they
    hold. With `settles` they are read once they have stayed the same between two looks: an
    editor may be at work.
    """

    def __init__(
        self,
        name: str,
        paths: Callable[[], Sequence[Path]],
        read: Callable[[], object],
        *,
        settles: bool = False,
    ) -> None:
        self._name = name
        self._settles = settles
        self._paths = paths
        self._read = read
        self._seen = self._last = self._look()

    async def watch(self) -> None:
        """Look at the files again and again, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - logged and counted
                logs.task_failed(self._name)

    async def look(self) -> None:
        """Read the files again if one has changed."""
        last, self._last = self._last, self._look()
        seen = self._last
        if seen == self._seen or (self._settles and seen != last):
            return
        self._seen = seen
        files = [str(path) for path in self._paths()]
        try:
            found = self._read()
            if inspect.isawaitable(found):
                await found
        except (ValueError, OSError) as error:
            log.warning("files.refused", what=self._name, files=files, error=str(error))
        else:
            log.info("files.changed", what=self._name, files=files)

    def _look(self) -> list[object]:
        """Return what is another where a file was written anew, or replaced."""
        return [_state(path) for path in self._paths()]


def _state(path: Path) -> object:
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            return sorted((file.name, _state(file)) for file in path.iterdir() if file.is_file())
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
