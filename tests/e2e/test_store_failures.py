"""Replicas that die or freeze, and stores that go away, lose no request and no place for long."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.fakes.model_host import ModelHost
from tests.fakes.process import Running, balancing
from tests.fakes.replicas import LIMIT, REPLICAS, Gate, ask_all, knows, replicas, waits
from tests.fakes.sockets import chat
from tests.fakes.valkey import PROGRAM, Late, Pair, valkey

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(PROGRAM is None, reason="neither valkey-server nor redis-server is here"),
]

RACES = int(os.environ.get("BALANCER_RACES", "2000"))
EXPIRY = 10.0
"""Seconds after which the places of a replica are free that says nothing."""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
async def test_the_places_and_slots_of_a_replica_that_dies_come_back() -> None:
    gate = Gate()
    async with valkey() as store, gate.host.running(), replicas(gate.host, store, 1) as [survivor]:
        with contextlib.suppress(AssertionError):  # it ends as it must not
            async with balancing({"A": gate.host.limited(LIMIT)}, valkey_url=store.url) as victim:
                await survivor.until(lambda: knows(survivor, 2))
                held = await gate.fill(victim, "well, " * 100)
                await survivor.until(lambda: busy_slots(survivor, LIMIT))
                victim.process.send_signal(signal.SIGKILL)
                await victim.process.wait()
        await asyncio.gather(*held, return_exceptions=True)
        gate.open.set()
        async with asyncio.timeout(EXPIRY + 3):
            statuses = await ask_all([survivor], LIMIT, LIMIT)
        await survivor.until(lambda: busy_slots(survivor, 0))

    assert statuses == {200: LIMIT}


async def busy_slots(balancer: Running, count: int) -> bool:
    [slots] = await balancer.backends("slots")
    return bool(sum(slot["busy"] for slot in slots) == count)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
async def test_a_replica_that_dies_under_load_costs_the_others_nothing() -> None:
    host = ModelHost()
    async with valkey() as store, host.running(), replicas(host, store, 2) as survivors:
        with contextlib.suppress(AssertionError):  # it ends as it must not
            async with balancing({"A": host.limited(LIMIT)}, valkey_url=store.url) as victim:
                dying = asyncio.create_task(ask_all([victim], RACES))
                asking = asyncio.create_task(ask_all(survivors, RACES))
                await survivors[0].until(lambda: len(host.seen) > RACES // 4)
                victim.process.send_signal(signal.SIGKILL)
                await victim.process.wait()
        await asyncio.gather(dying, return_exceptions=True)
        statuses = await asking

    assert statuses == {200: RACES}
    assert host.peak <= LIMIT


@pytest.mark.parametrize("fault", ["stopped", "silent", "late", "read-only"])
async def test_a_store_that_goes_away_fails_no_request_and_costs_little(fault: str) -> None:
    host = ModelHost()
    async with (
        valkey() as store,
        Late(store).running() as way,
        host.running(),
        replicas(host, way) as balancers,
    ):
        match fault:
            case "stopped":
                await store.stop()
            case "silent":
                store.pause()
            case "late":
                way.seconds = 0.5
            case "read-only":
                await store.ask("REPLICAOF", "127.0.0.1", "1")
        statuses = await ask_all(balancers, 300)
        shares = [(await b.snapshot())["backends"][0]["request_share"] for b in balancers]
        match fault:
            case "stopped":
                await store.start()
            case "silent":
                store.resume()
            case "late":
                way.seconds = 0.0
            case "read-only":
                await store.ask("REPLICAOF", "NO", "ONE")
        for balancer in balancers:
            await balancer.until(lambda b=balancer: knows(b, REPLICAS))  # type: ignore[misc]
        statuses += await ask_all(balancers, 300)
        events = [{line["event"] for line in b.log()} for b in balancers]

    assert statuses == {200: 600}
    assert shares == [2] * REPLICAS  # a third of four, rounded up
    assert host.peak <= LIMIT + REPLICAS - 1
    assert all({"store.away", "store.back"} <= lines for lines in events)


@pytest.mark.parametrize("times", [1, 5])
async def test_a_store_that_forgets_everything_under_load_fails_no_request(times: int) -> None:
    host = ModelHost()
    async with valkey() as store, host.running(), replicas(host, store) as balancers:
        asking = asyncio.create_task(ask_all(balancers, RACES))
        for part in range(times):
            await balancers[0].until(lambda p=part: len(host.seen) > p * RACES // 6)  # type: ignore[misc]
            await store.ask("FLUSHALL")
        statuses = await asking

    assert statuses == {200: RACES}
    assert host.peak <= LIMIT + REPLICAS - 1


async def test_long_requests_of_others_are_known_to_a_replica_whose_store_is_away() -> None:
    gate = Gate()
    async with valkey() as store, gate.host.running(), replicas(gate.host, store, 2) as (a, b):
        held = await gate.fill(a)
        await b.until(lambda: is_full(b))
        await store.stop()
        await b.until(lambda: b.events("store.away"))
        waiting = asyncio.create_task(b.ask(chat(address="10.0.1.1")))
        await b.until(lambda: waits(b))
        before = gate.host.active
        gate.open.set()
        statuses = {response.status for response in await asyncio.gather(waiting, *held)}

    assert before == LIMIT
    assert statuses == {200}


async def is_full(balancer: Running) -> bool:
    return await balancer.backends("others_inflight") == [LIMIT]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGSTOP")
async def test_a_replica_that_is_frozen_goes_on_once_it_wakes() -> None:
    gate = Gate()
    async with valkey() as store, gate.host.running(), replicas(gate.host, store, 2) as (a, b):
        held = await gate.fill(a)
        a.process.send_signal(signal.SIGSTOP)
        await b.until(lambda: knows(b, 1))
        meanwhile = [asyncio.create_task(b.ask(chat(address=f"10.0.1.{n}"))) for n in range(LIMIT)]
        await b.until(lambda: gate.host.active == 2 * LIMIT)  # its leases have expired
        a.process.send_signal(signal.SIGCONT)
        await b.until(lambda: knows(b, 2))
        waiting = asyncio.create_task(b.ask(chat(address="10.0.2.1")))
        await b.until(lambda: waits(b))
        gate.open.set()
        statuses = {
            response.status for response in await asyncio.gather(waiting, *held, *meanwhile)
        }

    assert statuses == {200}
    assert gate.host.peak == 2 * LIMIT


async def test_a_store_whose_replica_takes_over_is_found_by_its_sentinel(tmp_path: Path) -> None:
    host, store = ModelHost(), Pair()
    await store.begin(tmp_path)
    try:
        async with host.running(), replicas(host, store, 2) as balancers:
            await store.stop()
            statuses = await ask_all(balancers, 100)
            for balancer in balancers:
                await balancer.until(lambda b=balancer: b.events("store.back"))  # type: ignore[misc]
            statuses += await ask_all(balancers, 100)
    finally:
        await store.end()

    assert statuses == {200: 200}
    assert host.peak <= LIMIT + 1


async def test_a_store_that_forgets_everything_is_told_again() -> None:
    gate = Gate()
    async with valkey() as store, gate.host.running(), replicas(gate.host, store, 1) as [a]:
        held = await gate.fill(a)
        await store.ask("FLUSHALL")

        async def is_told() -> bool:
            return await store.ask("ZCARD", "{llama-balancer}:leases:A") == f":{LIMIT}"

        await a.until(is_told)
        gate.open.set()
        await asyncio.gather(*held)

        async def is_empty() -> bool:
            return await store.ask("ZCARD", "{llama-balancer}:leases:A") == ":0"

        await a.until(is_empty)
