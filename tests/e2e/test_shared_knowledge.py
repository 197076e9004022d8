"""What one balancer does and learns, the others know, by a store that they share."""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_swapping_servers import SwapHost
from tests.fakes.conversation import Conversation
from tests.fakes.llama_cpp import AVAILABLE, llama_cpp, write_tiny_model
from tests.fakes.model_host import ModelHost, complete, status
from tests.fakes.ports import free_port
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import Message, Visit, bearer, chat, get, post
from tests.fakes.valkey import PROGRAM, Late, Valkey, valkey

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(PROGRAM is None, reason="neither valkey-server nor redis-server is here"),
]
real = pytest.mark.skipif(not AVAILABLE, reason="xllamacpp has no wheel for this machine")

ADMIN = "the-key-of-the-administrator"
TOKEN = "what-machines-show"


@contextlib.asynccontextmanager
async def llama_servers(folder: Path) -> AsyncIterator[dict[str, dict[str, str]]]:
    """Run two servers of two slots each."""
    model = folder / "tiny.gguf"
    write_tiny_model(model)
    with contextlib.ExitStack() as stack:
        addresses = [stack.enter_context(llama_cpp(model, free_port())) for _ in "AB"]
        yield {name: {"addr": address} for name, address in zip("AB", addresses, strict=True)}


@contextlib.asynccontextmanager
async def replicas(
    count: int, servers: dict[str, Any], store: Valkey, **settings: object
) -> AsyncIterator[list[Running]]:
    """Run some balancers before the same servers."""
    async with contextlib.AsyncExitStack() as stack:
        settings = {"valkey_url": store.url, **settings}
        found = [
            await stack.enter_async_context(balancing(servers, **settings))  # type: ignore[arg-type]
            for _ in range(count)
        ]
        for balancer in found:
            await until(balancer, "store", lambda it: it["replicas"] == count)
        yield found


async def until(balancer: Running, key: str, holds: Callable[[Any], bool]) -> None:
    """Wait until something holds of a part of the snapshot."""

    async def check() -> bool:
        return holds((await balancer.snapshot())[key])

    await balancer.until(check)


async def talk(people: Sequence[Conversation], balancers: Sequence[Running]) -> list[float]:
    """Have each say something to another replica; return the shares that caches held."""
    shares = []
    for one, balancer in zip(people, itertools.cycle(balancers)):
        one.url = f"http://127.0.0.1:{balancer.port}"
        prompt, cached = await asyncio.to_thread(one.say, "and then")
        shares.append(cached / prompt)
        for each in balancers:
            await until(each, "backends", nobody_works)
    return shares


def nobody_works(backends: list[dict[str, Any]]) -> bool:
    return not any(slot["busy"] for backend in backends for slot in backend["slots"])


def people() -> list[Conversation]:
    return [Conversation("", name) for name in ("Alice", "Bob", "Carol", "Dan")]


@real
@pytest.mark.timeout(120)
async def test_conversations_keep_their_slots_whichever_replica_they_reach(tmp_path: Path) -> None:
    async with (
        llama_servers(tmp_path) as servers,
        valkey() as store,
        replicas(3, servers, store) as balancers,
    ):
        for balancer in balancers:
            await until(balancer, "backends", lambda all_: all(b["kind"] for b in all_))
        four = people()
        await talk(four, balancers)
        homes = [one.place[0] for one in four]
        for turn in (1, 2):
            shares = await talk(four, balancers[turn:] + balancers[:turn])

            assert [one.place for one in four] == [(home, "cached_prompt") for home in homes]
            assert min(shares) > 0.8

    assert sorted(homes) == ["A", "A", "B", "B"]


@real
@pytest.mark.timeout(120)
async def test_a_replica_that_starts_knows_what_went_before(tmp_path: Path) -> None:
    async with llama_servers(tmp_path) as servers, valkey() as store:
        four = people()
        async with replicas(1, servers, store) as before:
            await until(before[0], "backends", lambda all_: all(b["kind"] for b in all_))
            await talk(four, before)
            homes = [one.place[0] for one in four]
        async with balancing(servers, valkey_url=store.url) as after:
            shares = await talk(four, [after])

    assert [one.place for one in four] == [(home, "cached_prompt") for home in homes]
    assert min(shares) > 0.8


async def test_a_client_keeps_its_server_whichever_replica_it_reaches() -> None:
    clients = [f"10.0.0.{number}" for number in range(10)]
    arrived = asyncio.Barrier(len(clients))

    async def work(visit: Visit, message: Message) -> bytes | None:
        await arrived.wait()
        return await complete(visit, message)

    hosts = {name: ModelHost(work) for name in "ABCDE"}
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(valkey())
        for host in hosts.values():
            await stack.enter_async_context(host.running())
        a, b = await stack.enter_async_context(replicas(2, hosts, store))
        homes = await asyncio.gather(*(home(a, client) for client in clients))
        await until(b, "sticky_count", lambda count: count == len(clients))
        after = await asyncio.gather(*(home(b, client) for client in clients))

    assert homes == after
    assert {*homes} == {*hosts}


async def home(balancer: Running, client: str) -> str:
    """Ask something as a client does; return the server that responded."""
    return (await balancer.ask(chat(address=client)))["x-balancer-server"]


async def test_a_server_that_fails_at_one_replica_is_left_alone_by_all() -> None:
    async def fail(visit: Visit, message: Message) -> bytes | None:
        return status(500)

    ill, well = ModelHost(fail), ModelHost()
    async with (
        valkey() as store,
        ill.running(),
        well.running(),
        replicas(2, {"ill": ill, "well": well}, store) as (a, b),
    ):
        for number in range(20):
            await a.ask(chat(address=f"10.0.0.{number}"))
        await until(b, "backends", lambda all_: all_[0]["status"] == "ejected")
        told = (await b.snapshot())["backends"][0]

    assert told["changed"]["reason"] == "status_5xx"


async def test_a_server_is_drained_at_all_replicas_and_at_those_that_start() -> None:
    host = ModelHost()
    settings: dict[str, Any] = {"admin_key": ADMIN}
    drain = get(b"/llmhealth-drain/A", b"Authorization: Bearer " + ADMIN.encode(), method=b"POST")
    async with valkey() as store, host.running():
        async with replicas(2, {"A": host}, store, **settings) as (a, b):
            await a.ask(drain)
            await until(b, "backends", lambda all_: all_[0]["draining"])
        async with balancing({"A": host}, valkey_url=store.url, **settings) as c:
            assert await c.backends("draining") == [True]


def order(method: bytes, path: bytes, key: str, body: object = None) -> bytes:
    written = b"" if body is None else json.dumps(body).encode()
    return method + post(written, path, bearer(key))[4:]


async def test_a_server_that_is_added_at_one_replica_is_known_to_all_and_to_those_that_start() -> (
    None
):
    host, more = ModelHost(), ModelHost()
    settings: dict[str, Any] = {"admin_key": ADMIN}
    path = b"/llmhealth-servers/more"
    async with valkey() as store, host.running(), more.running():
        async with replicas(2, {"A": host}, store, **settings) as (a, b):
            added = await a.ask(
                order(b"PUT", path, ADMIN, {"addr": f"http://127.0.0.1:{more.port}"})
            )
            assert added.status == 201, added.body
            await b.until(lambda: has_servers(b, ["A", "more"]))
            async with balancing({"A": host}, valkey_url=store.url, **settings) as c:
                assert await c.backends("name") == ["A", "more"]
                await b.ask(order(b"DELETE", path, ADMIN))
                for each in (a, c):
                    await each.until(lambda r=each: has_servers(r, ["A"]))  # type: ignore[misc]


async def test_a_machine_that_joins_one_replica_has_joined_all_and_leaves_all() -> None:
    host = ModelHost()
    settings: dict[str, Any] = {"join_token": TOKEN, "insecure": True}
    async with valkey() as store, host.running():
        servers = {"servers": {"pc": {"addr": f"http://127.0.0.1:{host.port}"}}}
        async with replicas(2, {}, store, **settings) as (a, b):
            await a.ask(order(b"PUT", b"/llmhealth-join/pc", TOKEN, servers))
            await b.until(lambda: has_servers(b, ["pc"]))
            await b.ask(order(b"DELETE", b"/llmhealth-join/pc", TOKEN))
            await a.until(lambda: has_servers(a, []))


async def has_servers(balancer: Running, names: list[str]) -> bool:
    return await balancer.backends("name") == names


async def test_how_long_a_model_takes_to_load_is_known_to_all() -> None:
    host = SwapHost(1.5)
    async with (
        valkey() as store,
        host.running(),
        replicas(2, {"A": host}, store) as (a, b),
    ):
        await a.ask(chat("a"))
        ask = post(json.dumps({"model": "a"}).encode(), b"/llmhealth-explain")
        await a.ask(chat("b"))

        async def knows() -> bool:
            told = json.loads((await b.ask(ask)).body)
            return bool(1 < told["servers"][0]["seconds"]["load"] < 3)

        await b.until(knows)


async def test_a_model_that_another_replica_uses_is_not_unloaded_for_another() -> None:
    host = SwapHost(0.3)
    long = {"messages": [{"role": "user", "content": "well, " * 100}]}

    async def use(balancer: Running, model: str, times: int) -> None:
        for _ in range(times):
            response = await balancer.ask(post(json.dumps({"model": model, **long}).encode()))
            assert response.status == 200

    async with valkey() as store, host.running(), replicas(2, {"A": host}, store) as (a, b):
        await use(a, "a", 1)
        using = asyncio.create_task(use(a, "a", 60))
        await use(b, "b", 1)
        await using

    assert host.loads.count("b") == 1
    assert host.loads.count("a") <= 2


async def test_neither_prompts_nor_keys_of_clients_go_to_the_store() -> None:
    key, secret = "a-key-of-a-client-that-is-long", "the cat is under the sofa, "
    keys = json.dumps({"alice": {"key": key, "requests_per_minute": 100}})
    said = {"model": "m", "messages": [{"role": "user", "content": secret * 50}]}
    ask = post(json.dumps(said).encode(), b"/v1/chat/completions", bearer(key))
    host = ModelHost()
    async with valkey() as store, Late(store).running() as way, host.running():
        limited = {"A": host.limited(2)}
        seen = json.dumps({"/llmhealth-snapshot": ["127.0.0.1"]})
        settings = {"valkey_url": way.url, "api_keys": keys, "open_endpoints": seen}
        async with balancing(limited, **settings) as balancer:  # type: ignore[arg-type]
            for _ in range(3):
                assert (await balancer.ask(ask)).status == 200
            await balancer.until(lambda: way.seen.count(b'"ended"') >= 3)

    assert b"alice" in way.seen
    assert key.encode() not in way.seen
    assert secret[:8].encode() not in way.seen
