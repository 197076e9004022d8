"""Signs of life for streams that wait for a place."""

import asyncio

import pytest

from tests.fakes.sockets import Visit, chat, holding, listening, ok
from tests.fakes.stack import relaying

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_cut")]


EVENT = b"data: {}\n\n"
STREAM = b"content-type: text/event-stream"
LIFE = b": keep-alive\n\n"


async def second_of_two(answer: bytes, **options: float) -> bytes:
    """Ask for a stream that has to wait until life was shown; then the server gives a response."""
    first, go = asyncio.Event(), asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.message()
        if not first.is_set():
            first.set()
            await go.wait()
            await visit.say(ok())
            await visit.message()
        await visit.say(answer)

    async with (
        listening(script) as port,
        relaying(port, request_max=1, keepalive=0.01, **options) as stack,  # type: ignore[arg-type]
    ):
        served = asyncio.ensure_future(stack.ask(chat()))
        await first.wait()
        async with stack.client() as client:
            await client.say(chat(stream=True))
            head = await client.reader.readuntil(LIFE)
            assert b"200 OK" in head
            if "queue_timeout" not in options:
                go.set()
            rest = await client.reader.readuntil(b"0\r\n\r\n")
        go.set()
        assert (await served).status == 200
        assert stack.in_flight == 0
    return rest


async def test_a_stream_that_waits_shows_life_and_then_goes_on_with_the_answer() -> None:
    told = await second_of_two(ok(EVENT * 2, STREAM))

    assert EVENT * 2 in told


async def test_an_error_after_life_was_shown_is_an_event() -> None:
    error = b'{"error": {"message": "no such model", "type": "x", "code": 404}}'
    head = b"HTTP/1.1 404 Not Found\r\ncontent-length: %d\r\n\r\n" % len(error)

    told = await second_of_two(head + error)

    assert b"data: " + error in told


async def test_an_end_of_the_wait_after_life_was_shown_is_an_event() -> None:
    told = await second_of_two(ok(), queue_timeout=0.3)

    assert b'data: {"error": {"message": "every server was busy' in told


async def test_a_client_that_leaves_after_life_was_shown_leaves_no_trace() -> None:
    first, go = asyncio.Event(), asyncio.Event()

    async with (
        listening(holding(first, go)) as port,
        relaying(port, request_max=1, keepalive=0.01) as stack,
    ):
        served = asyncio.ensure_future(stack.ask(chat()))
        await first.wait()
        async with stack.client() as client:
            await client.say(chat(stream=True))
            await client.reader.readuntil(LIFE)
        assert (await stack.record()).outcome == "client_disconnect"
        assert len(stack.waiting) == 0
        go.set()
        assert (await served).status == 200
        assert stack.in_flight == 0
