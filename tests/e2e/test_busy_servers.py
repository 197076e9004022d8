"""A server that is busy is not taken for one that is dead."""

import asyncio

import pytest

from tests.fakes.model_host import ModelHost, complete, event, status
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import SSE, Message, Visit, chat

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


async def late(visit: Visit, message: Message) -> bytes | None:
    """Answer probes later than they wait."""
    await asyncio.sleep(0.5)
    return status(200, body=b'{"data":[{"id":"m"}]}')


async def works(visit: Visit, message: Message) -> bytes | None:
    await asyncio.sleep(0.1)
    return await complete(visit, message)


async def test_servers_whose_probes_are_late_share_the_requests() -> None:
    a, b = ModelHost(works, probe=late), ModelHost(works, probe=late)
    async with a.running(), b.running():
        settings = {"probe_read_timeout": 0.2, "probe_interval": 0.1}
        async with balancing({"A": a, "B": b}, ready=False, **settings) as balancer:  # type: ignore[arg-type]
            await balancer.until(lambda: _status(balancer, ["invalid", "invalid"]))
            await asyncio.gather(*(balancer.ask(chat(address=f"10.0.0.{n}")) for n in range(8)))

            assert min(len(a.seen), len(b.seen)) >= 3
            # Requests that were completed are a sign of life.
            await balancer.until(lambda: balancer.returns())
            assert "invalid" in {line["before"] for line in balancer.returns()}


async def test_probes_that_starve_while_a_request_is_under_way_are_no_failure() -> None:
    starved = 0
    go = asyncio.Event()

    async def streams(visit: Visit, message: Message) -> bytes | None:
        await visit.say(SSE + event())
        await go.wait()
        return None

    async def starve(visit: Visit, message: Message) -> bytes | None:
        nonlocal starved
        if host.active:
            starved += 1
            await visit.closed()
            return None
        return host.list_models(message)

    host = ModelHost(streams, probe=starve)
    async with host.running():
        settings = {"probe_read_timeout": 0.2, "probe_interval": 0.1}
        async with balancing({"A": host}, **settings) as balancer:  # type: ignore[arg-type]
            async with balancer.client() as client:
                await client.say(chat(stream=True))
                await client.head()
                await balancer.until(lambda: starved >= 8)
                assert await balancer.backends("status") == ["idle"]
                assert balancer.events("server.down") == []
                go.set()


@pytest.mark.parametrize(("rise", "fall"), [(1, 2), (3, 4)])
async def test_a_server_falls_and_rises_after_so_many_probes(rise: int, fall: int) -> None:
    ill = False
    told: list[bool] = []

    async def show(visit: Visit, message: Message) -> bytes | None:
        if message.start.split()[1] != "/v1/models":
            return status(404)
        told.append(ill)
        return status(500) if ill else host.list_models(message)

    host = ModelHost(complete, probe=show)
    async with host.running():
        settings = {"probe_rise": rise, "probe_fall": fall}
        async with balancing({"A": host}, **settings) as balancer:  # type: ignore[arg-type]
            ill = True
            await balancer.until(lambda: balancer.events("server.down"))
            assert fall <= sum(told) <= fall + 1
            ill = False
            told.clear()
            await balancer.until(lambda: balancer.returns())
            assert rise <= len(told) <= rise + 1
            change = (await balancer.snapshot())["backends"][0]["changed"]

    assert (change["status"], change["reason"]) == ("idle", "probe")


async def _status(balancer: Running, wanted: list[str]) -> bool:
    return await balancer.backends("status") == wanted
