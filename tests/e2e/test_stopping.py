"""A balancer that is told to stop lets its streams end."""

import asyncio
import signal
import sys

import pytest

from tests.fakes.model_host import STREAM_END, ModelHost, event
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


async def refuses(balancer: Running) -> bool:
    """Whether nobody can connect any more."""
    try:
        async with balancer.client():
            return False
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it stopped listening in this very moment
        return False
