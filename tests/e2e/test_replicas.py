"""Several balancers keep the limits of their servers together, by a store that they share."""

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path

import pytest

from tests.fakes.authority import Authority
from tests.fakes.model_host import ModelHost, complete
from tests.fakes.ports import free_port
from tests.fakes.process import Running, balancing
from tests.fakes.replicas import LIMIT, Gate, ask_all, knows, replicas, waits
from tests.fakes.sockets import Message, Visit, bearer, chat, post
from tests.fakes.valkey import PROGRAM, Valkey, valkey

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(PROGRAM is None, reason="neither valkey-server nor redis-server is here"),
]

RACES = int(os.environ.get("BALANCER_RACES", "2000"))
KEY = "a-key-that-is-long-enough"


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
