"""Responses that break off: told within a stream of events, and nowhere else."""

import asyncio
import json

import pytest

from tests.fakes.sockets import SSE, Visit, answering, chat, chunk, listening, ok
from tests.fakes.stack import relaying

pytestmark = pytest.mark.anyio


async def test_a_stream_that_breaks_between_events_ends_with_an_error_event_and_no_end() -> None:
    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(SSE, chunk(b"data: 1\n\n"))
        visit.reset()

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(chat(stream=True))
        await client.head()
        assert await client.chunk() == b"data: 1\n\n"
        error = json.loads((await client.chunk()).removeprefix(b"data: "))["error"]
        assert error["type"] == "upstream_error"
        assert await client.closed() == b""

    assert stack.records[0].outcome == "upstream_error"


async def test_a_stream_that_breaks_inside_an_event_just_ends_too_early() -> None:
    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(SSE, chunk(b"data: 1"))
        visit.reset()

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(chat(stream=True))
        await client.head()
        assert await client.chunk() == b"data: 1"
        assert await client.closed() == b""


@pytest.mark.parametrize("rest", [chunk(b""), b""], ids=["whole", "begun"])
async def test_an_event_that_nests_deeper_than_is_read_passes_as_any_other(rest: bytes) -> None:
    event = b"data: " + b"[" * 50_000 + b"\n\n"
    async with listening(answering(SSE + chunk(event) + rest)) as port, relaying(port) as stack:
        async with stack.client() as client:
            await client.say(chat(stream=True))
            assert event[:-2] in await client.reader.readuntil(b"\n\n")
        assert (await stack.record()).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        b"content-type: text/plain\r\ncontent-length: 100",
        b"content-type: text/plain\r\ntransfer-encoding: chunked",
        b"content-type: text/event-stream\r\ncontent-length: 100",
        b"content-type: text/event-stream\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked",
    ],
)
async def test_nothing_is_told_within_a_body_that_is_no_plain_event_stream(
    headers: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    text = b"text\n\n"

    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n\r\n")
        await visit.say(text if b"length" in headers else chunk(text))
        await passed.wait()

    passed = asyncio.Event()
    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(chat(stream=True))
        await client.reader.readuntil(text)
        passed.set()
        assert await client.closed() in (b"", b"\r\n")

    assert stack.records[0].outcome == "upstream_error"
    assert "RuntimeError" not in caplog.text


@pytest.mark.parametrize("stream", [True, False])
async def test_to_a_client_of_http_1_0_the_end_of_an_answer_is_that_of_the_connection(
    stream: bool,
) -> None:
    event = b"data: 1\n\n"

    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(*([SSE, chunk(event), chunk(event), chunk(b"")] if stream else [ok(event)]))

    old = chat(stream=stream).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(old)
        head = await client.head()
        body = await client.closed()

    assert "transfer-encoding" not in head
    assert head["connection"] == "close"
    assert body == (event * 2 if stream else event)


async def test_a_body_that_breaks_off_does_not_look_complete() -> None:
    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(chat())
        assert (await client.head())["content-length"] == "10"
        assert await client.closed() == b"half"
