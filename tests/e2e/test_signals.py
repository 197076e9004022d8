"""Signals that mean nothing end nothing."""

import asyncio
import functools
import signal
import sys

import pytest

from tests.fakes.model_host import STREAM_END, ModelHost, event
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import SSE, Message, Visit, chat

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has none of these signals"),
]


def ignored(balancer: Running, name: str) -> bool:
    return name in [line["signal"] for line in balancer.events("signal.ignored")]


async def test_a_stream_outlives_signals_that_mean_nothing() -> None:
    go = asyncio.Event()

    async def streams(visit: Visit, message: Message) -> bytes | None:
        await visit.say(SSE + event())
        await go.wait()
        return event() + STREAM_END

    names = ["SIGUSR1", "SIGUSR2"]
    host = ModelHost(streams)
    async with host.running(), balancing({"A": host}) as balancer, balancer.client() as client:
        await client.say(chat(stream=True))
        await client.head()
        for name in names:
            balancer.process.send_signal(getattr(signal, name))
            await balancer.until(functools.partial(ignored, balancer, name))
        go.set()
        body = b""
        while piece := await client.chunk():
            body += piece

    assert body.endswith(b"data: [DONE]\n\n")
