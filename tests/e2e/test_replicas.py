"""Several balancers keep the limits of their servers together, by a store that they share."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from tests.fakes.authority import Authority
from tests.fakes.model_host import ModelHost, complete
from tests.fakes.ports import free_port
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import Message, Visit, bearer, chat, post
from tests.fakes.valkey import PROGRAM, Late, Pair, Valkey, valkey

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(PROGRAM is None, reason="neither valkey-server nor redis-server is here"),
]

REPLICAS = 3
RACES = int(os.environ.get("BALANCER_RACES", "2000"))
LIMIT = 4
KEY = "a-key-that-is-long-enough"
EXPIRY = 10.0
"""Seconds after which the places of a replica are free that says nothing."""


@contextlib.asynccontextmanager
async def replicas(
    host: ModelHost, store: Valkey | Late, count: int = REPLICAS, **settings: object
) -> AsyncIterator[list[Running]]:
    """Run some balancers before one server, which takes a few requests at once."""
    async with contextlib.AsyncExitStack() as stack:
        found = [
            await stack.enter_async_context(
                balancing(
                    {"A": host.limited(LIMIT)},
                    valkey_url=store.url,
                    queue_max=10_000,
                    **settings,  # type: ignore[arg-type]
                )
            )
            for _ in range(count)
        ]
        for balancer in found:
            await balancer.until(lambda b=balancer: knows(b, count))  # type: ignore[misc]
        yield found


async def knows(balancer: Running, count: int) -> bool:
    """Whether a replica knows how many there are."""
    store = (await balancer.snapshot())["store"]
    return bool(store["replicas"] == count and not store["away"])


async def ask_all(balancers: Sequence[Running], requests: int, at_once: int = 60) -> Counter[int]:
    """Send requests to all in turn, many at once; count the statuses."""
    statuses: Counter[int] = Counter()
    numbers = iter(range(requests))

    async def client() -> None:
        for number in numbers:
            balancer = balancers[number % len(balancers)]
            response = await balancer.ask(chat(address=f"10.0.0.{number % 50}"))
            statuses[response.status] += 1

    await asyncio.gather(*(client() for _ in range(at_once)))
    return statuses


class Gate:
    """A server that holds its responses back until it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.host = ModelHost(self._work)

    async def fill(self, balancer: Running) -> "list[asyncio.Task[Message]]":
        """Have a balancer send it as many requests as it takes."""
        asks = (balancer.ask(chat(address=f"10.0.0.{number}")) for number in range(LIMIT))
        held = [asyncio.create_task(ask) for ask in asks]
        await balancer.until(lambda: self.host.active == LIMIT)
        return held

    async def _work(self, visit: Visit, message: Message) -> bytes | None:
        await self.open.wait()
        return await complete(visit, message)


async def test_all_together_send_no_more_than_a_server_takes() -> None:
    host = ModelHost()
    async with valkey() as store, host.running(), replicas(host, store) as balancers:
        statuses = await ask_all(balancers, RACES)

    assert statuses == {200: RACES}
    assert host.peak <= LIMIT


async def test_a_place_that_one_replica_frees_is_taken_by_another_at_once() -> None:
    gate = Gate()
    async with valkey() as store, gate.host.running(), replicas(gate.host, store, 2) as (a, b):
        held = await gate.fill(a)
        waiting = asyncio.create_task(b.ask(chat(address="10.0.1.1")))
        await b.until(lambda: waits(b))
        gate.open.set()
        async with asyncio.timeout(1):  # a heartbeat is longer
            assert (await waiting).status == 200
        await asyncio.gather(*held)

    assert gate.host.peak == LIMIT


async def waits(balancer: Running) -> bool:
    return bool((await balancer.snapshot())["queue"]["waiting"])


async def test_one_who_asks_often_holds_up_nobody_at_another_replica() -> None:
    order: list[str] = []

    async def work(visit: Visit, message: Message) -> bytes | None:
        order.append(message["x-forwarded-for"].partition(",")[0])
        await asyncio.sleep(0.2)
        return await complete(visit, message)

    host = ModelHost(work)
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(valkey())
        await stack.enter_async_context(host.running())
        a, b = [
            await stack.enter_async_context(
                balancing({"A": host.limited(1)}, valkey_url=store.url, queue_max=100)
            )
            for _ in "ab"
        ]
        await a.until(lambda: knows(a, 2))
        greedy = [asyncio.create_task(a.ask(chat(address="10.0.0.1"))) for _ in range(16)]
        await a.until(lambda: len(order) > 2)
        before = len(order)
        await b.ask(chat(address="10.0.0.2"))
        await asyncio.gather(*greedy)

    assert order.index("10.0.0.2") - before <= 6


async def test_a_replica_knows_the_places_of_others_as_soon_as_it_is_refused_one() -> None:
    gate = Gate()
    async with valkey() as store, gate.host.running(), replicas(gate.host, store, 2) as (a, b):
        held = await gate.fill(a)
        waiting = asyncio.create_task(b.ask(chat(address="10.0.1.1")))
        await b.until(lambda: waits(b))
        known = (await b.backends("others_inflight"), await a.backends("others_inflight"))
        gate.open.set()
        await asyncio.gather(waiting, *held)
        await b.until(lambda: is_free(a, b))

    assert known == ([LIMIT], [0])


async def test_what_waits_at_one_replica_is_known_at_another() -> None:
    gate = Gate()
    async with valkey() as store, gate.host.running(), replicas(gate.host, store, 2) as (a, b):
        held = await gate.fill(a)
        held += [asyncio.create_task(a.ask(chat(address=f"10.0.1.{n}"))) for n in range(3)]
        await b.until(lambda: waiting_elsewhere(b, 3))
        gate.open.set()
        await asyncio.gather(*held)
        await b.until(lambda: waiting_elsewhere(b, 0))


async def waiting_elsewhere(balancer: Running, count: int) -> bool:
    return bool((await balancer.snapshot())["store"]["waiting_elsewhere"] == count)


async def is_free(*balancers: Running) -> bool:
    """Whether nobody believes that others have places."""
    return all([await b.backends("others_inflight") == [0] for b in balancers])


async def test_a_request_that_makes_no_work_needs_no_place() -> None:
    gate = Gate()
    count = post(b'{"model": "m", "messages": []}', b"/v1/messages/count_tokens")
    async with (
        valkey() as store,
        gate.host.running(),
        replicas(gate.host, store, 2, routed_paths="all") as (a, b),
    ):
        held = await gate.fill(a)
        counting = asyncio.create_task(b.ask(count))
        await b.until(lambda: gate.host.active == LIMIT + 1)
        gate.open.set()
        await asyncio.gather(counting, *held)


async def test_who_is_to_overflow_a_server_does_so_with_others_too() -> None:
    gate = Gate()
    async with (
        valkey() as store,
        gate.host.running(),
        replicas(gate.host, store, 2, overflow="first") as (a, b),
    ):
        held = await gate.fill(a)
        more = asyncio.create_task(b.ask(chat(address="10.0.1.1")))
        await b.until(lambda: gate.host.active == LIMIT + 1)
        gate.open.set()
        await asyncio.gather(more, *held)


async def test_the_limit_of_a_key_holds_over_all() -> None:
    host = ModelHost()
    keys = json.dumps({"alice": {"key": KEY, "requests_per_minute": 3}})
    seen = json.dumps({"/llmhealth-snapshot": ["127.0.0.1"]})
    asks = post(b'{"model": "m", "messages": []}', b"/v1/chat/completions", bearer(KEY))
    async with (
        valkey() as store,
        host.running(),
        replicas(host, store, 2, api_keys=keys, open_endpoints=seen) as (a, b),
    ):
        first = [(await a.ask(asks)).status for _ in range(4)]

        async def is_refused() -> bool:
            return (await b.ask(asks)).status == 429

        await b.until(is_refused)

    assert first == [200, 200, 200, 429]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
async def test_the_places_of_a_replica_that_dies_come_back() -> None:
    gate = Gate()
    async with valkey() as store, gate.host.running(), replicas(gate.host, store, 1) as [survivor]:
        with contextlib.suppress(AssertionError):  # it ends as it must not
            async with balancing({"A": gate.host.limited(LIMIT)}, valkey_url=store.url) as victim:
                await survivor.until(lambda: knows(survivor, 2))
                held = await gate.fill(victim)
                victim.process.send_signal(signal.SIGKILL)
                await victim.process.wait()
        await asyncio.gather(*held, return_exceptions=True)
        gate.open.set()
        async with asyncio.timeout(EXPIRY + 3):
            statuses = await ask_all([survivor], LIMIT, LIMIT)

    assert statuses == {200: LIMIT}


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


async def test_a_store_may_want_tls_and_a_name_that_may_do_no_more_than_it_must(
    tmp_path: Path,
) -> None:
    host, store, authority, port = ModelHost(), Valkey(), Authority(tmp_path), free_port()
    cert, key = str(authority.cert), str(authority.key)
    tls = ["--tls-port", str(port), "--tls-cert-file", cert, "--tls-key-file", key]
    tls += ["--tls-ca-cert-file", cert, "--tls-auth-clients", "no"]
    keys = ["~{llama-balancer}:*", "&{llama-balancer}:*"]
    user = ["--user", "balancer", "on", ">a-password", *keys, "+@all", "-@dangerous"]
    store.url = f"rediss://balancer:a-password@localhost:{port}/0?ssl_ca_certs={cert}"
    await store.start(*tls, *user)
    try:
        async with host.running(), replicas(host, store, 2) as balancers:
            statuses = await ask_all(balancers, 100)
            failures = [sum((await b.metrics("task_failures_total")).values()) for b in balancers]
    finally:
        await store.stop()

    assert statuses == {200: 100}
    assert host.peak <= LIMIT
    assert failures == [0, 0]


async def test_without_a_store_nothing_of_it_is_imported() -> None:
    code = "import app.main, app.composition.handler, sys; print('redis' in sys.modules)"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()

    assert json.loads(said.decode().strip().lower()) is False
