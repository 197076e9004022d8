"""The server's end: what becomes of requests under way."""

import asyncio
import json
import signal

import pytest

from tests.fakes.sockets import SSE, Visit, chat, chunk, get, listening, ok, until
from tests.fakes.stack import relaying

pytestmark = pytest.mark.anyio

EVENT = b"data: 1\n\n"


async def test_requests_under_way_end_in_their_own_words_when_the_grace_time_does() -> None:
    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(ok())
        while True:
            await visit.message()
            await visit.say(SSE, chunk(EVENT))
            await visit.closed()

    async with (
        listening(script) as port,
        relaying(port, request_max=1) as stack,
        stack.client() as at_once,
        stack.client() as in_a_task,
        stack.client() as waiting,
    ):
        await at_once.say(chat())
        await at_once.message()
        await at_once.say(chat(stream=True))
        await at_once.reader.readuntil(EVENT)
        await waiting.say(chat())
        await until(lambda: len(stack.waiting))
        await in_a_task.say(get(b"/warm"))
        await in_a_task.message()
        await in_a_task.say(get(b"/stream"))
        await in_a_task.reader.readuntil(EVENT)
        stopping = asyncio.ensure_future(stack.server.shutdown())
        stack.server.should_exit = True
        stack.server.handle_exit(signal.SIGTERM, None)

        for client in (at_once, in_a_task):
            last = await client.closed()
            assert b'data: {"error": {"message": "the balancer is shutting down"' in last
            assert not last.endswith(b"0\r\n\r\n")
        refused = await waiting.message()
        await stopping

        assert (refused.status, json.loads(refused.body)["error"]["type"]) == (
            503,
            "server_shutdown",
        )
        assert [record.outcome for record in stack.records[2:]] == ["rejected"] * 3
        assert stack.in_flight == 0
        assert len(stack.waiting) == 0


async def test_a_client_that_does_not_read_does_not_hold_up_the_end() -> None:
    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(SSE)
        while True:
            await visit.say(chunk(b"x" * 100_000))

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(chat(stream=True))
        await until(lambda: any(not c.writable for c in stack.clients))
        stack.server.should_exit = True
        stack.server.handle_exit(signal.SIGTERM, None)
        async with asyncio.timeout(3):
            await stack.server.shutdown()
        await stack.record()
        await until(lambda: not stack.in_flight)


async def test_requests_that_end_within_the_grace_time_are_not_cut_short() -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(SSE, chunk(EVENT))
        arrived.set()
        await go.wait()
        await visit.say(chunk(EVENT), chunk(b""))

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(chat(stream=True))
        await arrived.wait()
        stopping = asyncio.ensure_future(stack.server.shutdown())
        await until(lambda: not stack.server.servers[0].is_serving())
        go.set()
        assert (await client.message()).body == EVENT * 2
        await stopping
