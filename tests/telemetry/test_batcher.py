import asyncio

import pytest

from app.telemetry.batcher import Batcher
from app.telemetry.record import Record
from tests.fakes import records

pytestmark = pytest.mark.anyio


def record(number: int) -> Record:
    return records.record(number)


async def test_every_listener_hears_of_every_request_once_and_soon() -> None:
    heard: list[list[str]] = [[], []]
    done = asyncio.Event()

    def second(one: Record) -> None:
        heard[1].append(one.id)
        if one.id == "2":
            done.set()

    batcher = Batcher(lambda one: heard[0].append(one.id), second)
    for number in range(3):
        batcher.put(record(number))
    assert heard == [[], []]
    await done.wait()
    batcher.flush()

    assert heard == [["0", "1", "2"]] * 2


async def test_a_fault_in_a_listener_keeps_nothing_from_the_others() -> None:
    heard: list[str] = []

    def faulty(one: Record) -> None:
        raise ValueError(one.id)

    batcher = Batcher(faulty, lambda one: heard.append(one.id))
    batcher.put(record(1))
    batcher.put(record(2))
    batcher.flush()

    assert heard == ["1", "2"]
