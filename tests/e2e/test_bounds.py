"""What one client sends has bounds, so that it harms no other."""

import asyncio
import contextlib
import json
import sys

import pytest

from tests.bench.process import resident_bytes
from tests.fakes.model_host import ModelHost, complete
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import Message, Visit, chat, get, post

pytestmark = pytest.mark.anyio

M = 2**20


def waiting_for(go: asyncio.Event) -> ModelHost:
    """Make a server whose responses wait for an event."""

    async def hold(visit: Visit, message: Message) -> bytes | None:
        await go.wait()
        return await complete(visit, message)

    return ModelHost(hold)


async def test_long_names_of_models_are_refused_and_leave_memory_where_it_was() -> None:
    host = ModelHost()
    async with host.running(), balancing({"A": host}) as balancer:
        before = resident_bytes(balancer.process.pid)
        for number in range(40):
            response = await balancer.ask(chat(f"{number}" + "a" * 5_000_000))
            assert response.status == 400
            assert "longer than 256 characters" in json.loads(response.body)["error"]["message"]
            assert len(response.start) + len(response.body) < 1000
        after = resident_bytes(balancer.process.pid)

    assert after - before < 60 * M  # a name of 5 MB in some buffer, not forty of them
    assert not host.seen


async def test_a_name_of_256_characters_is_a_name() -> None:
    host = ModelHost()
    async with host.running(), balancing({"A": host}) as balancer:
        assert (await balancer.ask(chat("a" * 256))).status == 200


@pytest.mark.parametrize(
    "bomb", [b"[],", b'{"role":"user","content":"a"},', b'"k":1,', b'{"a":[{},"\\u0041"]},']
)
async def test_a_body_of_very_many_values_is_refused_before_it_is_parsed(bomb: bytes) -> None:
    body = b'{"model":"m","stream":true,"messages":[' + bomb * (20 * M // len(bomb)) + b"1]}"
    host = ModelHost()
    async with host.running(), balancing({"A": host}) as balancer:
        before = resident_bytes(balancer.process.pid)
        response = await balancer.ask(post(body))
        explained = await balancer.ask(post(body, b"/llmhealth-explain"))
        after = resident_bytes(balancer.process.pid)

    assert (response.status, explained.status) == (400, 400)
    assert "more than 1,000,000 values" in json.loads(response.body)["error"]["message"]
    assert after - before < 150 * M  # parsed, they took a gigabyte
    assert not host.seen


def long_body(**more: object) -> bytes:
    said = [{"role": "user", "content": "All work and no play. " * 150_000}]
    return json.dumps({"messages": said, "model": "m", **more}).encode()


async def test_a_long_body_passes_as_it_came_but_for_its_model() -> None:
    host = ModelHost()
    async with host.running(), balancing({"A": host}, aliases='{"tall \\"": "m"}') as balancer:
        plain = await balancer.ask(post(long_body()))
        renamed = await balancer.ask(post(long_body(model='tall "', other="model")))
        said_twice = await balancer.ask(post(long_body(model='tall "', other={"model": 1})))

    assert (plain.status, renamed.status, said_twice.status) == (200, 200, 200)
    assert host.seen[0].body == long_body()
    assert host.seen[1].body == long_body(other="model")
    assert host.seen[2].body == long_body(other={"model": 1})


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (long_body()[:-1], "not JSON"),
        (long_body().replace(b'{"messages"', b'{"model":"n","messages"'), "names model twice"),
        (b"[" + long_body() + b"]", "not a JSON object"),
        (long_body(model=7), "model must be a string"),
    ],
    ids=["cut", "twice", "list", "number"],
)
async def test_a_long_body_with_a_mistake_is_refused_as_a_short_one(
    body: bytes, reason: str
) -> None:
    host = ModelHost()
    async with host.running(), balancing({"A": host}) as balancer:
        refused = await balancer.ask(post(body))
        after = await balancer.ask(chat())

    assert (refused.status, after.status) == (400, 200)
    assert reason in json.loads(refused.body)["error"]["message"]
    assert len(host.seen) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
async def test_the_memory_of_long_bodies_goes_back_to_the_system() -> None:
    go = asyncio.Event()
    host = waiting_for(go)
    body = json.dumps({"model": "m", "messages": [], "x": "a" * 16 * M}).encode()
    async with host.running(), balancing({"A": host}) as balancer:
        before = resident_bytes(balancer.process.pid)
        asked = [asyncio.ensure_future(balancer.ask(post(body))) for _ in range(6)]
        await balancer.until(lambda: host.active == 6)
        held = resident_bytes(balancer.process.pid)
        go.set()
        await asyncio.gather(*asked)
        await balancer.until(lambda: resident_bytes(balancer.process.pid) < before + 24 * M)

    assert held < before + 1.5 * 6 * len(body)


async def test_clients_that_leave_while_their_long_bodies_are_read_leave_nothing_behind() -> None:
    host = ModelHost()
    async with host.running(), balancing({"A": host}) as balancer:
        for number in range(12):
            async with balancer.client() as client:
                await client.say(post(long_body(n=number)))
        assert (await balancer.ask(chat())).status == 200
        await balancer.until(lambda: _rests(balancer))

    assert len(host.seen) <= 13


async def _rests(balancer: Running) -> bool:
    counted = await balancer.metrics("requests_in_flight")
    return counted['endpoint="/v1/chat/completions"'] == 0


async def test_the_bodies_that_are_held_have_a_bound_together() -> None:
    go = asyncio.Event()

    host = waiting_for(go)
    body = json.dumps({"model": "m", "messages": [], "x": "a" * M}).encode()
    async with (
        host.running(),
        balancing({"A": host}, max_buffered_bytes=5 * M, routed_paths="all") as balancer,
    ):
        asked = [asyncio.ensure_future(balancer.ask(post(body))) for _ in range(4)]
        await balancer.until(lambda: host.active == 4)
        refused = await balancer.ask(post(body))
        small = asyncio.ensure_future(balancer.ask(chat()))
        await balancer.until(lambda: host.active == 5)
        go.set()
        responses = await asyncio.gather(*asked, small)
        for _ in range(6):  # what was held is free again
            assert (await balancer.ask(post(body))).status == 200
        rejections = await balancer.metrics("routing_rejections_total")

    assert {response.status for response in responses} == {200}
    assert (refused.status, "retry-after" in refused) == (503, True)
    assert sum(count for about, count in rejections.items() if "buffer_full" in about) == 1


async def test_a_form_of_very_many_parts_is_refused() -> None:
    kind = b"content-type: multipart/form-data; boundary=x"
    body = b"--x\r\n\r\n\r\n" * 100_000 + b"--x--\r\n"
    host = ModelHost()
    async with (
        host.running(),
        balancing({"A": host}, routed_paths="all") as balancer,
    ):
        response = await balancer.ask(post(body, b"/v1/audio/transcriptions", kind))

    assert response.status == 400
    assert "more than 1,000 parts" in json.loads(response.body)["error"]["message"]


async def test_a_response_with_an_endless_head_is_the_server_s_fault() -> None:
    async def flood(visit: Visit, message: Message) -> bytes | None:
        return b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 101 + b"content-length: 0\r\n\r\n"

    host = ModelHost(flood)
    async with host.running(), balancing({"A": host}) as balancer:
        response = await balancer.ask(chat())

    assert response.status == 502
    assert "more than 100 fields" in json.loads(response.body)["error"]["message"]


async def test_the_page_gets_the_newest_pins_and_the_snapshot_all() -> None:
    host = ModelHost()
    async with host.running(), balancing({"A": host}) as balancer:
        async with balancer.client() as client:
            for number in range(300):
                await client.say(chat(address=f"10.0.{number // 200}.{number % 200 + 1}"))
                await client.message()
        snapshot = await balancer.snapshot()
        async with balancer.client() as client:
            await client.say(get(b"/llmhealth-monitor/events"))
            await client.head()
            event = await client.chunk()

    shown = json.loads(event.removeprefix(b"data: "))["snapshot"]
    assert (len(snapshot["sticky"]), snapshot["sticky_count"]) == (300, 300)
    assert (len(shown["sticky"]), shown["sticky_count"]) == (200, 300)
    assert shown["sticky"][-1]["key"] == "10.0.1.100"


async def test_for_one_connection_more_the_longest_idle_is_closed() -> None:
    host = ModelHost()
    async with host.running(), balancing({"A": host}, max_connections=3) as balancer:
        async with balancer.client() as first, balancer.client() as second:
            for client in (first, second, first):  # the second is idle for longer
                await client.say(chat())
                assert (await client.message()).status == 200
                await asyncio.sleep(0.02)  # the loop's clock counts milliseconds
            async with balancer.client() as third, balancer.client() as fourth:
                for client in (third, fourth, first):
                    await client.say(chat())
                    assert (await client.message()).status == 200
                assert await second.closed() == b""


async def test_where_no_connection_is_idle_one_more_is_refused() -> None:
    go = asyncio.Event()

    host = waiting_for(go)
    trusted = "10.0.0.0/8"  # we are none of them
    async with host.running():
        async with balancing(
            {"A": host}, max_connections_per_client=2, trusted_proxies=trusted
        ) as balancer:
            asked = [asyncio.ensure_future(balancer.ask(chat())) for _ in range(2)]
            while host.active < 2:  # to ask the balancer would take a connection
                await host.probed.wait()
                await asyncio.sleep(0.01)
            refused = await balancer.ask(chat())
            go.set()
            assert [response.status for response in await asyncio.gather(*asked)] == [200, 200]

    assert refused.status == 503


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are Linux' own")
async def test_no_server_is_blamed_where_our_own_files_run_out() -> None:
    import resource

    go = asyncio.Event()

    host = waiting_for(go)
    async with (
        host.running(),
        balancing({"A": host}) as balancer,
        contextlib.AsyncExitStack() as on,
    ):
        process = balancer.process.pid
        before = resource.prlimit(process, resource.RLIMIT_NOFILE)
        clients = [await on.enter_async_context(balancer.client()) for _ in range(8)]
        for client in clients:  # so that they are accepted
            await client.say(get(b"/llmhealth"))
            await client.message()
        room = balancer.files() + 3
        resource.prlimit(process, resource.RLIMIT_NOFILE, (room, before[1]))
        for client in clients:
            await client.say(chat())
        await balancer.until(lambda: len(balancer.events("exchange.out_of_sockets")) >= 3)
        resource.prlimit(process, resource.RLIMIT_NOFILE, before)
        go.set()
        statuses = [(await client.message()).status for client in clients]
        again = await balancer.ask(chat())
        down = balancer.events("server.down")

    assert {*statuses} == {200, 503}
    assert again.status == 200
    assert not down
