"""A balancer that is told to stop lets its streams end."""

import asyncio
import signal
import sys

import pytest

from tests.fakes.model_host import STREAM_END, ModelHost, event
from tests.fakes.ports import free_port
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import SSE, Message, Visit, chat

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM"),
]

STREAMS = 100


async def test_a_stop_cuts_none_of_a_hundred_streams() -> None:
    begun = asyncio.Semaphore(0)
    go = asyncio.Event()

    async def streams(visit: Visit, message: Message) -> bytes | None:
        await visit.say(SSE + event())
        await go.wait()
        return event() + STREAM_END

    async def client(balancer: Running) -> bytes:
        async with balancer.client() as visit:
            await visit.say(chat(stream=True))
            await visit.head()
            body = await visit.chunk()
            begun.release()
            while piece := await visit.chunk():
                body += piece
            return body

    host = ModelHost(streams)
    async with host.running(), balancing({"A": host}, shutdown_timeout=30) as balancer:
        clients = [asyncio.create_task(client(balancer)) for _ in range(STREAMS)]
        for _ in range(STREAMS):
            await begun.acquire()
        balancer.process.send_signal(signal.SIGTERM)
        await balancer.until(lambda: refuses(balancer))
        go.set()
        bodies = await asyncio.gather(*clients)
        await balancer.process.wait()

    assert [body for body in bodies if not body.endswith(b"data: [DONE]\n\n")] == []


async def ready(balancer: Running) -> int:
    return (await balancer.get("/llmhealth-ready")).status


async def test_a_stop_takes_requests_until_everybody_has_heard_of_it() -> None:
    host = ModelHost()
    async with host.running(), balancing({"A": host}, drain_delay=2) as balancer:
        before = await ready(balancer)
        balancer.process.send_signal(signal.SIGTERM)
        await balancer.until(lambda: balancer.events("balancer.stopping"))
        during = await ready(balancer), (await balancer.ask(chat())).status
        await balancer.process.wait()

    assert (before, during) == (200, (503, 200))


async def test_a_second_signal_ends_that_wait() -> None:
    host = ModelHost()
    async with host.running(), balancing({"A": host}, drain_delay=600) as balancer:
        balancer.process.send_signal(signal.SIGTERM)
        await balancer.until(lambda: balancer.events("balancer.stopping"))
        balancer.process.send_signal(signal.SIGTERM)
        await balancer.process.wait()


async def test_a_balancer_is_ready_while_a_server_is_up() -> None:
    host = ModelHost()
    async with balancing({"A": {"addr": f"http://127.0.0.1:{free_port()}"}}, ready=False) as alone:
        await alone.until(lambda: alone.events("server.down"))
        assert await ready(alone) == 503
    async with host.running(), balancing({"A": host}) as balancer:
        assert await ready(balancer) == 200


async def test_an_agent_without_servers_is_ready() -> None:
    async with balancing({}) as balancer:
        assert await ready(balancer) == 200


async def refuses(balancer: Running) -> bool:
    """Whether nobody can connect any more."""
    try:
        async with balancer.client():
            return False
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it stopped listening in this very moment
        return False
