"""A request that would go round in circles comes to an end."""

import asyncio
import json
import os
import subprocess
import sys

import pytest

from tests.fakes.model_host import ModelHost
from tests.fakes.ports import free_port
from tests.fakes.process import balancing
from tests.fakes.sockets import Visit, chat, get, listening

pytestmark = pytest.mark.anyio


def command(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {k: v for k, v in os.environ.items() if not k.startswith("BALANCER_")}
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
@pytest.mark.parametrize("listens", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("action", ["check", "serve"])
def test_the_own_address_is_no_server(action: str, listens: str, host: str) -> None:
    servers = json.dumps({"PC1": {"addr": f"http://{host}:18123"}})
    done = command(action, BALANCER_PORT="18123", BALANCER_HOST=listens, BALANCER_SERVERS=servers)

    assert done.returncode == 2
    assert "BALANCER_SERVERS" in done.stderr
    assert "is the address that this balancer listens on" in done.stderr


def test_the_own_agent_is_a_health_address() -> None:
    server = {"addr": "http://127.0.0.1:8081", "health_port": 18123}
    done = command("check", BALANCER_PORT="18123", BALANCER_SERVERS=json.dumps({"PC1": server}))

    assert done.returncode == 0


async def forwarding(visit: Visit, port: int) -> None:
    """Pass bytes on to the balancer, as something that maps ports does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        sink.close()

    await asyncio.gather(pump(visit.reader, writer), pump(reader, visit.writer))


@pytest.mark.parametrize("request_", [chat("m"), get(b"/page"), chat("m", stream=True)])
async def test_one_balancer_that_leads_to_itself_says_so(request_: bytes) -> None:
    target = 0
    passed = 0

    async def forward(visit: Visit) -> None:
        nonlocal passed
        passed += 1
        await forwarding(visit, target)

    async with listening(forward) as port:
        address = {"addr": f"http://127.0.0.1:{port}"}
        async with balancing({"A": address}, ready=False) as balancer:
            target = balancer.port
            response = await balancer.ask(request_)

            assert response.status == 508
            assert "server A leads back" in json.loads(response.body)["error"]["message"]
            await balancer.until(lambda: balancer.events("loop.detected"))
            assert balancer.events("loop.detected")[0]["server"] == "A"
            assert await balancer.in_flight() == 0


async def test_two_balancers_in_a_circle_say_so() -> None:
    target = 0

    async def forward(visit: Visit) -> None:
        await forwarding(visit, target)

    async with listening(forward) as port:
        back = {"addr": f"http://127.0.0.1:{port}"}
        async with balancing({"A": back}, ready=False) as first:
            there = {"addr": f"http://127.0.0.1:{first.port}"}
            async with balancing({"B": there}, ready=False) as second:
                target = second.port
                response = await second.ask(chat("m"))

                assert response.status == 508
                await second.until(lambda: second.events("loop.detected"))
                assert [line["server"] for line in second.events("loop.detected")] == ["B"]


async def test_servers_see_who_has_passed_a_request_on() -> None:
    host = ModelHost()
    async with host.running(), balancing({"A": host}) as balancer:
        request = chat("m").replace(
            b"\r\n\r\n", b"\r\nvia: 1.0 fred, 1.1 p.example\r\nx-balancer-hops: 2\r\n\r\n", 1
        )
        await balancer.ask(request)

    (seen,) = host.seen
    via = [value for name, value in seen.headers if name == "via"]
    assert via[0] == "1.0 fred, 1.1 p.example"
    assert via[1].startswith("1.1 llama-balancer-")
    assert seen["x-balancer-hops"] == "3"


async def test_a_circle_that_strips_via_ends_by_the_count() -> None:
    async with balancing(
        {"A": {"addr": f"http://127.0.0.1:{free_port()}"}}, ready=False
    ) as balancer:
        request = chat("m").replace(b"\r\n\r\n", b"\r\nx-balancer-hops: 10\r\n\r\n", 1)
        assert (await balancer.ask(request)).status == 508
        nonsense = chat("m").replace(b"\r\n\r\n", b"\r\nx-balancer-hops: -1e9\r\n\r\n", 1)
        assert (await balancer.ask(nonsense)).status == 502
