"""Timeouts hold for every request, and nothing that was opened stays open."""

import asyncio
import sys
from typing import Any

import pytest

from tests.fakes.model_host import COMPLETION, ModelHost, complete
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import Message, Visit, chat, ok

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


def timeouts() -> dict[str, Any]:
    return {"first_byte_timeout": 1, "idle_timeout": 1}


async def mute_at_times(visit: Visit, message: Message) -> bytes | None:
    """Stay silent, begin and then stay silent, or respond over a connection that closes then."""
    if b"silent" in message.body:
        await visit.closed()
        return None
    if b"begins" in message.body:
        await visit.say(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nxx")
        await visit.closed()
        return None
    if b"keep" in message.body:
        return await complete(visit, message)
    await visit.say(ok(COMPLETION, b"connection: close"))
    return None


async def test_the_first_byte_s_timeout_holds_for_each_of_many_requests_under_load() -> None:
    host = ModelHost(mute_at_times)
    async with (
        host.running(),
        balancing({"A": host}, first_byte_timeout=1, idle_timeout=1) as balancer,
    ):
        done = asyncio.Event()

        async def load() -> None:
            while not done.is_set():
                await balancer.ask(chat())

        # Each of these dials, so that a round meets connections over which nothing was sent.
        loading = [asyncio.create_task(load()) for _ in range(20)]
        silent = []
        for wave in range(20):
            silent += [
                asyncio.create_task(balancer.ask(chat(silent=wave * 50 + n))) for n in range(50)
            ]
            await asyncio.sleep(0)
        responses = await asyncio.wait_for(asyncio.gather(*silent), 60)
        done.set()
        await asyncio.gather(*loading)

        assert {response.status for response in responses} == {504}
        await balancer.until(lambda: _none_in_flight(balancer))
        assert await balancer.metrics("task_failures_total") == {
            f'task="{task}"': 0.0
            for task in (
                *("probe", "introspection", "pool", "clients", "gpus", "telemetry", "usage", "lag"),
                "store",
            )
        }


async def test_the_idle_timeout_holds_after_many_dialled_connections() -> None:
    host = ModelHost(mute_at_times)
    async with (
        host.running(),
        balancing({"A": host}, first_byte_timeout=1, idle_timeout=1) as balancer,
    ):
        for _ in range(100):
            await asyncio.gather(*(balancer.ask(chat()) for _ in range(5)))

        async def cut() -> None:
            with pytest.raises(asyncio.IncompleteReadError):
                await balancer.ask(chat(begins=True))

        await asyncio.wait_for(asyncio.gather(*(cut() for _ in range(20))), 20)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the open files")
async def test_idle_connections_are_closed_after_a_burst() -> None:
    host = ModelHost(mute_at_times)
    async with host.running(), balancing({"A": host}) as balancer:
        await balancer.ask(chat())
        before = balancer.files()
        await asyncio.gather(*(balancer.ask(chat(keep=n)) for n in range(200)))

        await balancer.until(lambda: balancer.files() <= before + 2)


async def _none_in_flight(balancer: Running) -> bool:
    return await balancer.in_flight() == 0
