"""A client's connection: what it asks for, how, and when it leaves."""

import asyncio

import pytest

from tests.fakes.stack import (
    SSE,
    Visit,
    chat,
    chunk,
    listening,
    relaying,
)

pytestmark = pytest.mark.anyio


async def test_a_client_that_leaves_during_its_second_answer_cancels_that_request() -> None:
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(SSE, chunk(b"data: 1\n\n"), chunk(b""))
        await visit.message()
        await visit.say(SSE, chunk(b"data: 2\n\n"))
        arrived.set()
        await visit.closed()
        gone.set()

    async with listening(script) as port, relaying(port) as stack:
        async with stack.client() as client:
            await client.say(chat(stream=True) * 2)
            assert (await client.message()).body == b"data: 1\n\n"
            await arrived.wait()
        await gone.wait()
        assert (await stack.record(2)).outcome == "client_disconnect"
        assert stack.in_flight == 0
