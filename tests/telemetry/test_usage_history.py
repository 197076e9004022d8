import asyncio
import sqlite3
from pathlib import Path

import pytest

from app.telemetry import logs
from app.telemetry.access import AccessStats, Used
from app.telemetry.usage_history import FILE, MOST_KINDS, OTHER, DayUsed, UsageHistory
from tests.fakes.clock import Clock
from tests.fakes.records import record

pytestmark = pytest.mark.anyio

DAY = 86400.0
NOON = 12 * 3600.0


class House:
    """Requests that are counted, and their history in a folder."""

    def __init__(self, folder: Path | None) -> None:
        self.clock = Clock(NOON)
        self.stats = AccessStats(self.clock)
        self.history = UsageHistory(folder, self.stats.fresh, self.clock)

    def used(self, model: str = "m", **facts: object) -> None:
        facts = {"outcome": "success", "sent": 1.0, "tokens": 10, "status": 200, **facts}
        self.stats.finished(record(model=model, **facts))  # type: ignore[arg-type]

    async def requests(self) -> list[int]:
        """List how many requests each kind had today."""
        return [one.requests for one in await self.history.since(1)]


async def test_requests_are_added_up_by_day_client_user_and_model(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.used(username="alice")
    await house.history.write()
    house.used(username="alice", outcome="timeout")
    await house.history.write()
    house.clock.now += DAY
    house.used("other")

    assert await house.history.since(30) == [
        DayUsed("1970-01-01", "10.0.0.1", "alice", "m", 2, 1, 20, 0, 0),
        DayUsed("1970-01-02", "10.0.0.1", "", "other", 1, 0, 10, 0, 0),
    ]
    assert await house.requests() == [1]
    house.history.close()


async def test_what_was_written_survives_a_restart(tmp_path: Path) -> None:
    for _ in range(2):
        house = House(tmp_path)
        house.used()
        found = await house.requests()
        house.used()
        house.history.close()

    assert found == [3]
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


async def test_without_a_folder_it_is_kept_in_memory() -> None:
    house = House(None)
    house.used()
    await house.history.write()

    assert await house.requests() == [1]
    house.history.close()


async def test_names_that_clients_make_up_are_bounded(tmp_path: Path) -> None:
    house = House(tmp_path)
    for batch in range(30):
        for number in range(200):
            house.used(username=f"{batch} {number} " + "x" * 1000)
        await house.history.write()
        house.clock.now += 60

    found = await house.history.since(1)
    assert len(found) <= MOST_KINDS + 200 + 1
    assert sum(one.requests for one in found) == 6000
    assert max(len(one.username) for one in found) == 128
    assert [one.requests for one in found if one.client == OTHER] == [6000 - len(found) + 1]
    house.history.close()


async def test_what_cannot_be_written_is_written_later(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()  # no database can be there
    house = House(tmp_path)
    house.used()
    await house.history.write()
    assert await house.requests() == []

    (tmp_path / FILE).rmdir()
    assert await house.requests() == [1]
    house.history.close()


async def test_days_that_are_too_old_are_deleted(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.used()
    await house.history.write()
    house.clock.now += 500 * DAY
    house.used()
    house.history.close()

    with sqlite3.connect(tmp_path / FILE) as database:
        assert database.execute("SELECT count(*) FROM usage").fetchone() == (1,)


async def test_a_fault_in_a_round_does_not_end_the_others() -> None:
    rounds = 0

    def fail() -> list[tuple[int, tuple[str, str, str | None], Used]]:
        nonlocal rounds
        rounds += 1
        raise ValueError("a fault of ours")

    history = UsageHistory(None, fail, pause=0.0)
    watching = asyncio.create_task(history.watch())
    while rounds < 3:
        await asyncio.sleep(0)
    watching.cancel()

    assert logs.failures["usage"] >= 2
