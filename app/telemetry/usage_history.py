"""Who used which model how much, day by day, in SQLite: nothing of it is on a request's way."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import time
from typing import Final, NamedTuple

import structlog

from app.telemetry import logs
from app.telemetry.access import Used

FILE: Final = "usage.sqlite"

MEMORY: Final = ":memory:"
"""What SQLite calls a database without a file."""

PAUSE: Final = 10.0
"""Seconds between two writes."""

KEPT_DAYS: Final = 400

MOST_KINDS: Final = 2000
"""So many combinations of client, user and model are told apart in a day."""

OTHER: Final = "(other)"
"""Stands for all beyond those."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS usage (
    day TEXT, client TEXT, username TEXT, model TEXT,
    requests INTEGER, failed INTEGER, prompt INTEGER, cached INTEGER, completion INTEGER,
    PRIMARY KEY (day, client, username, model)
) WITHOUT ROWID
"""

ADD: Final = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests, failed = failed + excluded.failed,
    prompt = prompt + excluded.prompt, cached = cached + excluded.cached,
    completion = completion + excluded.completion
"""

log: Final = structlog.get_logger(__name__)

Kind = tuple[str, str, str, str]
"""A day, a client, a user and a model."""

Pending = dict[Kind, Used]

Fresh = Callable[[], Iterable[tuple[int, tuple[str, str, str | None], Used]]]
"""Takes what there is new: in which minute since the epoch, by which client, model and user."""


class DayUsed(NamedTuple):
    """What was used on a day."""

    day: str
    """As 2026-11-29, in UTC."""
    client: str
    """The name of the key; where nobody needs one, the address."""
    username: str
    model: str
    requests: int
    failed: int
    prompt: int
    """Tokens of prompts, those from caches included."""
    cached: int
    completion: int


class UsageHistory:
    """Adds up what requests used, and writes it now and then into a file of `folder`.

    Without a folder it is kept in memory. `fresh` takes what there is new, which is written at
    every `pause`, in seconds. A file that cannot be written loses nothing until there are too
    many combinations, or the program ends; what is in it is read once it can be.
    """

    def __init__(
        self,
        folder: Path | None,
        fresh: Fresh,
        clock: Callable[[], float] = time,
        pause: float = PAUSE,
    ) -> None:
        self._pause = pause
        self._path = MEMORY if folder is None else str(folder / FILE)
        self._fresh = fresh
        self._clock = clock
        self._pending: Pending = {}
        self._database: sqlite3.Connection | None = None
        self._failing = False
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="usage")
        """The one thread that touches the file."""

    async def watch(self) -> None:
        """Write until cancelled."""
        while True:
            await asyncio.sleep(self._pause)
            try:
                await self.write()
            except Exception:  # noqa: BLE001 - logged and counted
                logs.task_failed("usage")

    async def write(self) -> None:
        """Write what was added up since the last time."""
        pending = self._take()
        if not pending:
            return
        error = await asyncio.get_running_loop().run_in_executor(self._worker, self._write, pending)
        self._note(error, pending)

    async def since(self, days: int) -> list[DayUsed]:
        """List what was used on the last so many days, today included."""
        await self.write()
        first = self._day(days - 1)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, self._read, first)

    def close(self) -> None:
        """Write the rest, and close the file."""
        self._worker.submit(self._end, self._take())
        self._worker.shutdown(wait=True)

    def _note(self, error: str, pending: Pending) -> None:
        if error and not self._failing:
            log.warning("usage.unwritten", file=self._path, error=error)
        self._failing = bool(error)
        if not error:
            return
        for kind, used in pending.items():  # it may go better the next time
            self._add(kind, used)

    def _take(self) -> Pending:
        """Return what is to be written."""
        for minute, (client, model, username), used in self._fresh():
            if used.requests:
                day = datetime.fromtimestamp(60 * minute, UTC).date().isoformat()
                self._add((day, client, username or "", model), used)
        pending, self._pending = self._pending, {}
        return pending

    def _add(self, kind: Kind, used: Used) -> None:
        if kind not in self._pending and len(self._pending) >= MOST_KINDS:
            kind = (kind[0], OTHER, OTHER, OTHER)
        before = self._pending.get(kind, (0, 0, 0, 0, 0))
        self._pending[kind] = Used(*(a + b for a, b in zip(before, used, strict=True)))

    def _day(self, back: int = 0) -> str:
        today = datetime.fromtimestamp(self._clock(), UTC).date()
        return (today - timedelta(days=back)).isoformat()

    # In the worker

    def _write(self, pending: Pending) -> str:
        """Add to what is in the file; return what went wrong, if anything did."""
        try:
            with self._opened() as database:
                days = {kind[0] for kind in pending}
                full = {day for day in days if self._is_full(database, day)}
                rows = [
                    (*(self._known(database, kind) if kind[0] in full else kind), *used)
                    for kind, used in pending.items()
                ]
                database.executemany(ADD, rows)
                database.execute("DELETE FROM usage WHERE day < ?", (self._day(KEPT_DAYS),))
        except sqlite3.Error as error:
            return str(error)
        return ""

    def _is_full(self, database: sqlite3.Connection, day: str) -> bool:
        found = database.execute("SELECT count(*) FROM usage WHERE day = ?", (day,)).fetchone()
        return bool(found[0] >= MOST_KINDS)

    def _known(self, database: sqlite3.Connection, kind: Kind) -> Kind:
        """Return a kind that is there, or the one that stands for all others."""
        there = "SELECT 1 FROM usage WHERE day = ? AND client = ? AND username = ? AND model = ?"
        return kind if database.execute(there, kind).fetchone() else (kind[0], OTHER, OTHER, OTHER)

    def _read(self, first: str) -> list[DayUsed]:
        question = "SELECT * FROM usage WHERE day >= ? ORDER BY day, client, username, model"
        try:
            return [DayUsed(*row) for row in self._opened().execute(question, (first,))]
        except sqlite3.Error:
            return []

    def _end(self, pending: Pending) -> None:
        if pending:
            self._write(pending)
        if self._database is not None:
            self._database.close()

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            database = sqlite3.connect(self._path, timeout=1.0, check_same_thread=False)
            if self._path != MEMORY:
                with contextlib.suppress(OSError):  # some file systems know no rights
                    Path(self._path).chmod(0o600)  # there are names in it
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(SCHEMA)
            self._database = database
        return self._database
