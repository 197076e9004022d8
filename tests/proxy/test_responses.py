"""What comes back from a server, over real sockets."""

import asyncio

import pytest

from tests.fakes.sockets import (
    SSE,
    Message,
    Visit,
    answering,
    chat,
    chunk,
    get,
    listening,
    ok,
    post,
)
from tests.fakes.stack import relaying

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_cut")]


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_answers_without_a_body_leave_the_connections_usable(status: bytes) -> None:
    answer = b"HTTP/1.1 " + status + b"\r\netag: x\r\n\r\n"
    visits = 0

    async def script(visit: Visit) -> None:
        nonlocal visits
        visits += 1
        await answering(answer)(visit)

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        for _ in range(50):
            await client.say(get(b"/x"))
            assert (await client.message()).start == "HTTP/1.1 " + status.decode()

    assert visits == 1


async def test_head_has_the_length_and_no_body() -> None:
    async with listening(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")) as port:
        async with relaying(port) as stack, stack.client() as client:
            for _ in range(50):
                await client.say(get(b"/x", method=b"HEAD"))
                assert (await client.message(head_only=True))["content-length"] == "5"


async def test_interim_answers_are_for_us_alone() -> None:
    answer = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + ok(b"real")
    async with listening(answering(answer)) as port, relaying(port) as stack:
        assert (await stack.ask(get(b"/x"))).body == b"real"


@pytest.mark.parametrize("kind", [b"text/event-stream; charset=utf-8", b"application/x-ndjson"])
async def test_a_stream_tells_other_proxies_not_to_hold_it_back(kind: bytes) -> None:
    begun = asyncio.Event()

    async def slowly(visit: Visit) -> None:
        await visit.message()
        head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-type: " + kind
        await visit.say(head + b"\r\n\r\n" + chunk(b"piece"))
        await begun.wait()
        await visit.say(chunk(b""))

    for way in (answering(ok(b"whole", b"content-type: " + kind)), slowly):
        async with listening(way) as port, relaying(port) as stack, stack.client() as client:
            await client.say(get(b"/x"))
            told = await client.head()
            begun.set()
            assert (told["cache-control"], told["x-accel-buffering"]) == ("no-cache", "no")


async def test_what_a_server_says_of_its_stream_holds() -> None:
    own = b"content-type: text/event-stream\r\ncache-control: no-store\r\nX-Accel-Buffering: yes"
    async with listening(answering(ok(b"data: 1\n\n", own))) as port, relaying(port) as stack:
        told = await stack.ask(get(b"/x"))

    assert [value for name, value in told.headers if name == "cache-control"] == ["no-store"]
    assert [value for name, value in told.headers if name == "x-accel-buffering"] == ["yes"]


async def test_what_is_no_stream_may_be_buffered() -> None:
    async with listening(answering(ok(b"{}"))) as port, relaying(port) as stack:
        told = await stack.ask(get(b"/x"))

    assert "cache-control" not in told
    assert "x-accel-buffering" not in told


async def test_a_redirect_is_passed_on_and_not_followed() -> None:
    answer = b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"
    async with listening(answering(answer)) as port, relaying(port) as stack:
        told = await stack.ask(get(b"/x"))

    assert (told.status, told["location"]) == (302, "http://169.254.169.254/")


async def test_compressed_bodies_pass_untouched() -> None:
    body = bytes(range(256))
    seen: list[Message] = []
    answer = ok(body, b"content-encoding: zstd", b"vary: accept-encoding")
    async with listening(answering(answer, seen)) as port, relaying(port) as stack:
        told = await stack.ask(get(b"/x", b"accept-encoding: zstd"))

    assert (told.body, told["content-encoding"]) == (body, "zstd")
    assert seen[0]["accept-encoding"] == "zstd"


async def test_headers_that_connection_nominates_stay_on_their_hop() -> None:
    seen: list[Message] = []
    answer = ok(b"", b"connection: x-inner", b"x-inner: 1", b"x-outer: 2")
    async with listening(answering(answer, seen)) as port, relaying(port) as stack:
        told = await stack.ask(get(b"/x", b"connection: keep-alive, x-mine", b"x-mine: 1"))

    assert "x-mine" not in seen[0]
    assert "x-inner" not in told
    assert told["x-outer"] == "2"


async def test_an_answer_that_ends_with_its_connection_ends_properly() -> None:
    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(b"HTTP/1.1 200 OK\r\n\r\n", b"to the ", b"end")

    async with listening(script) as port, relaying(port) as stack:
        assert (await stack.ask(get(b"/x"))).body == b"to the end"


async def test_an_answer_that_came_whole_is_sent_with_its_length() -> None:
    whole = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"whole") + chunk(b"")
    async with listening(answering(whole)) as port, relaying(port) as stack:
        answer = await stack.ask(chat())

    assert (answer.body, answer["content-length"]) == (b"whole", "5")
    assert "transfer-encoding" not in answer


async def test_a_client_that_wants_to_close_is_told_so_and_closed() -> None:
    request = post(b'{"model":"m"}', b"/v1/chat/completions", b"connection: close")
    async with listening(answering(ok(b"whole"))) as port, relaying(port) as stack:
        answer = await stack.ask(request)

    assert (answer.body, answer["connection"]) == (b"whole", "close")


async def test_every_event_is_passed_on_at_once() -> None:
    step = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(SSE)
        for number in range(3):
            await visit.say(chunk(b"data: %d\n\n" % number))
            await step.wait()
            step.clear()
        await visit.say(b"0\r\n\r\n")

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(chat(stream=True))
        assert (await client.head())["content-type"] == "text/event-stream"
        for number in range(3):
            assert await client.chunk() == b"data: %d\n\n" % number
            step.set()
        assert await client.chunk() == b""

    assert stack.records[0].stream


@pytest.mark.parametrize(
    ("events", "size"),
    [("data: 太郎\r\n\r\ndata: 2\n\n" * 5, 1), ("data: " + "x" * 8_000_000 + "\n\n", 1 << 20)],
    ids=["byte by byte", "one large event"],
)
async def test_a_stream_passes_unchanged_however_it_is_cut(events: str, size: int) -> None:
    body = events.encode()
    wire = SSE + chunk(body) + chunk(b"")

    async def script(visit: Visit) -> None:
        await visit.message()
        for place in range(0, len(wire), size):
            await visit.say(wire[place : place + size])
            await asyncio.sleep(0)

    async with listening(script) as port, relaying(port) as stack:
        assert (await stack.ask(chat(stream=True))).body == body


async def test_a_slow_reader_slows_the_server_down() -> None:
    finished = asyncio.Event()
    size = 40_000_000

    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size // 100_000):
            await visit.say(b"x" * 100_000)
        finished.set()

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(get(b"/x"))
        await client.head()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(finished.wait(), 0.3)
        assert len(await client.reader.readexactly(size)) == size
        await finished.wait()


async def test_lines_of_json_are_a_stream_to_the_log() -> None:
    lines = ok(b'{"response":"Hi"}\n{"done":true}\n', b"content-type: application/x-ndjson")
    async with listening(answering(lines)) as port, relaying(port) as stack:
        await stack.ask(post(b'{"model":"m","prompt":"Hi"}', b"/api/generate"))
        record = await stack.record()

    assert record.stream
    assert record.response is not None
    assert record.response.first_token is not None
