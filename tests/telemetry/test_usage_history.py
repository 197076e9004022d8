import sqlite3
from pathlib import Path

import pytest

from app.telemetry.usage_history import FILE, MOST_KINDS, OTHER, UsageHistory, Used
from tests.fakes.clock import Clock
from tests.fakes.records import record

pytestmark = pytest.mark.anyio

DAY = 86400.0
NOON = 12 * 3600.0


def used(history: UsageHistory, model: str = "m", **facts: object) -> None:
    facts = {"outcome": "success", "sent": 1.0, "tokens": 10, "status": 200, **facts}
    history.finished(record(model=model, **facts))  # type: ignore[arg-type]


async def test_requests_are_added_up_by_day_client_user_and_model(tmp_path: Path) -> None:
    clock = Clock(NOON)
    history = UsageHistory(tmp_path, clock)
    used(history, username="alice")
    used(history, username="alice", outcome="timeout")
    clock.now += DAY
    used(history, "other")

    assert await history.since(30) == [
        Used("1970-01-01", "10.0.0.1", "alice", "m", 2, 1, 20, 0, 0),
        Used("1970-01-02", "10.0.0.1", "", "other", 1, 0, 10, 0, 0),
    ]
    assert [one.day for one in await history.since(1)] == ["1970-01-02"]
    history.close()


async def test_what_was_written_survives_a_restart(tmp_path: Path) -> None:
    first = UsageHistory(tmp_path, Clock(NOON))
    used(first)
    first.close()
    second = UsageHistory(tmp_path, Clock(NOON))
    used(second)

    [one] = await second.since(1)
    assert one.requests == 2
    second.close()


async def test_without_a_folder_it_is_kept_in_memory() -> None:
    history = UsageHistory(None, Clock(NOON))
    used(history)
    await history.write()

    assert [one.requests for one in await history.since(1)] == [1]
    history.close()


async def test_names_that_clients_make_up_are_bounded(tmp_path: Path) -> None:
    history = UsageHistory(tmp_path, Clock(NOON))
    for batch in range(3):
        for number in range(MOST_KINDS):
            used(history, username=f"{batch} {number} " + "x" * 1000)
        await history.write()

    found = await history.since(1)
    assert len(found) == MOST_KINDS + 1
    assert sum(one.requests for one in found) == 3 * MOST_KINDS
    assert max(len(one.username) for one in found) == 128
    assert [one.requests for one in found if one.client == OTHER] == [2 * MOST_KINDS]
    history.close()


async def test_what_cannot_be_written_is_written_later(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()  # no database can be there
    history = UsageHistory(tmp_path, Clock(NOON))
    used(history)
    await history.write()
    assert await history.since(1) == []

    (tmp_path / FILE).rmdir()
    assert [one.requests for one in await history.since(1)] == [1]
    history.close()


async def test_days_that_are_too_old_are_deleted(tmp_path: Path) -> None:
    clock = Clock(NOON)
    history = UsageHistory(tmp_path, clock)
    used(history)
    await history.write()
    clock.now += 500 * DAY
    used(history)
    history.close()

    with sqlite3.connect(tmp_path / FILE) as database:
        assert database.execute("SELECT count(*) FROM usage").fetchone() == (1,)
