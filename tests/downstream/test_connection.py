"""A client's connection: what it asks for, how, and when it leaves."""

import asyncio
import contextlib
import json
import socket
import sys

import pytest

from tests.fakes.sockets import (
    SSE,
    Message,
    Visit,
    answering,
    chat,
    chunk,
    get,
    holding,
    listening,
    ok,
    post,
    until,
)
from tests.fakes.stack import relaying

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_cut")]


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
        await until(lambda: not stack.in_flight)


POST = b"POST /x HTTP/1.1\r\nhost: b\r\n"
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nhost: b\r\n"
UPGRADE = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
INNER = get(b"/smuggled")
IN_CHUNKS = b"transfer-encoding: chunked\r\n\r\n" + chunk(INNER) + chunk(b"")


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/x"])
@pytest.mark.parametrize("piece", [1, 1_000])
@pytest.mark.parametrize(
    "rest",
    [b"content-length: %d\r\n\r\n%b" % (len(INNER), INNER), IN_CHUNKS],
    ids=["length", "chunks"],
)
async def test_a_request_that_asks_for_an_upgrade_has_a_body_as_any_other(
    path: bytes, piece: int, rest: bytes
) -> None:
    """Java's client asks for HTTP/2 like this."""
    seen: list[Message] = []
    request = b"POST " + path + b" HTTP/1.1\r\nhost: b\r\n" + UPGRADE + rest
    async with listening(answering(ok(), seen)) as port, relaying(port) as stack:
        async with stack.client() as client:
            for number in range(0, len(request), piece):
                await client.say(request[number : number + piece])
                await asyncio.sleep(0)
            await client.message()
            await client.say(get(b"/next"))
            assert (await client.message()).status == 200

    assert [message.start.split()[1] for message in seen if message.body != INNER] == ["/next"]
    assert "upgrade" not in seen[0]


async def test_requests_behind_one_that_asks_for_an_upgrade_are_served() -> None:
    seen: list[Message] = []
    asks = get(b"/1", b"connection: upgrade", b"upgrade: h2c")
    posts = post(b"body", b"/2", b"connection: upgrade", b"upgrade: h2c")
    async with listening(answering(ok(), seen)) as port, relaying(port) as stack:
        async with stack.client() as client:
            await client.say(asks * 2 + posts + asks + get(b"/3"))
            for _ in range(5):
                assert (await client.message()).status == 200

    assert [message.start.split()[1] for message in seen] == ["/1", "/1", "/2", "/1", "/3"]
    assert seen[2].body == b"body"


async def test_a_body_in_a_websockets_handshake_is_never_the_next_request() -> None:
    seen: list[Message] = []
    request = post(INNER, b"/x", b"connection: upgrade", b"upgrade: websocket")
    async with listening(answering(ok(), seen)) as port, relaying(port) as stack:
        async with stack.client() as client:
            await client.say(request + get(b"/next"))
            await client.message()
            await client.message()

    assert [(message.start.split()[1], message.body) for message in seen] == [
        ("/x", INNER),
        ("/next", b""),
    ]


# What is no request


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"CONNECT example.com:443 HTTP/1.1\r\nhost: b\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /x HTTP/1.1\r\nhost : b\r\n\r\n",
        b"GET /x HTTP/1.1\r\nhost: b\r\nx: a\x00b\r\n\r\n",
        b"GET /x HTTP/1.1\r\nhost: b\r\n folded: x\r\n\r\n",
        POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
        POST + b"content-length: +1\r\n\r\na",
        POST + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        POST + b"transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        CHAT + b"transfer-encoding: chunked\r\n\r\nxyz\r\n",
        CHAT + b"transfer-encoding: chunked\r\n\r\n1 \r\na\r\n",
        CHAT + b"transfer-encoding: chunked\r\n\r\n1\na\n0\n\n",
    ],
)
async def test_what_is_not_http_is_an_error_of_the_client_and_reaches_no_server(
    request_: bytes,
) -> None:
    seen: list[Message] = []
    async with listening(answering(ok(), seen)) as port, relaying(port) as stack:
        async with stack.client() as client:
            await client.say(request_)
            answer = await client.message()
            assert await client.closed() == b""
        await stack.ask(get(b"/next"))

    assert answer.status == 400
    assert json.loads(answer.body)["error"]["type"] == "invalid_request_error"
    assert [message.start.split()[1] for message in seen] == ["/next"]


async def test_an_answer_under_way_is_cut_off_and_not_written_into_by_what_is_not_http() -> None:
    gone = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(SSE, chunk(b"data: 1\n\n"))
        await visit.closed()
        gone.set()

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(chat(stream=True))
        await client.head()
        assert await client.chunk() == b"data: 1\n\n"
        await client.say(b"garbage\r\n\r\n")
        assert await client.closed() == b""
        await gone.wait()
        await until(lambda: not stack.in_flight)


# What takes too much, or too long


@pytest.mark.parametrize(
    "start",
    [
        b"GET /x HTTP/1.1\r\nx: ",
        b"GET /",
        get(b"/x") + b"GET /x HTTP/1.1\r\nx: ",
        POST + b"transfer-encoding: chunked\r\n\r\n0\r\nx: ",
    ],
    ids=["header", "target", "second", "trailer"],
)
async def test_a_head_that_does_not_end_is_refused(start: bytes) -> None:
    async with listening(answering(ok())) as port, relaying(port) as stack:
        async with stack.client() as client:
            await client.say(start)
            if start.startswith(get(b"/x")):
                await client.message()
            await client.say(b"a" * 1_000_000)
            answer = await client.message()
            assert await client.closed() == b""

    assert answer.status == 431
    assert json.loads(answer.body)["error"]["code"] == 431


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        # RFC 9112 section 2.3: versions
        (b"GET /x\r\n\r\n", 505),
        (b"GET /x HTTP/0.9\r\nhost: b\r\n\r\n", 505),
        (b"GET /x HTTP/2.0\r\nhost: b\r\n\r\n", 505),
        (b"GET /x HTTP/1.2\r\nhost: b\r\n\r\n", 400),
        (b"GET /x http/1.1\r\nhost: b\r\n\r\n", 400),
        (b"GET /x HTTP/1.0\r\n\r\n", 200),
        # section 3: request lines
        (b"get /x HTTP/1.1\r\nhost: b\r\n\r\n", 400),
        (b"GET\t/x HTTP/1.1\r\nhost: b\r\n\r\n", 400),
        (b"GET /x y HTTP/1.1\r\nhost: b\r\n\r\n", 400),
        (b"GET /x#y HTTP/1.1\r\nhost: b\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nhost: b\r\n\r\n", 400),
        (b"GET /x HTTP/1.1 x\r\nhost: b\r\n\r\n", 400),
        # section 3.2: hosts
        (b"GET /x HTTP/1.1\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nhost: b\r\nhost: b\r\n\r\n", 400),
        (b"GET /x HTTP/1.0\r\nhost: b\r\nhost: c\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nhost: a b\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nhost: b/c\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nhost: c@b\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nhost: b:80:80\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nhost: b\xc3\xa9\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nhost:\r\n\r\n", 200),
        (b"GET /x HTTP/1.1\r\nhost: my_pc.local:8080\r\n\r\n", 200),
        (b"GET /x HTTP/1.1\r\nhost: [fe80::1%25eth0]:80\r\n\r\n", 200),
        # section 5: fields
        (b"GET /x HTTP/1.1\r\nhost: b\r\nx : y\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nhost: b\r\nx\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nhost: b\r\n: y\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nhost: b\r\nx: a\rb\r\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nhost: b\r\nx: y\n\r\n", 400),
        (b"GET /x HTTP/1.1\nhost: b\n\n", 400),
        # section 6: bodies
        (POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
        (POST + b"transfer-encoding: gzip\r\n" + UPGRADE + b"\r\n", 501),
        (POST + b"transfer-encoding: identity\r\n\r\n", 501),
        (b"POST /x HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (POST + b"content-length: 1, 1\r\n\r\na", 400),
        (POST + b"content-length: 0x1\r\n\r\na", 400),
        (POST + b"content-length: 99999999999999999999\r\n\r\na", 400),
    ],
)
async def test_requests_are_taken_as_rfc_9112_has_them(request_: bytes, status: int) -> None:
    seen: list[Message] = []
    async with listening(answering(ok(), seen)) as port, relaying(port) as stack:
        async with stack.client() as client:
            await client.say(request_)
            answer = await client.message()

    assert answer.status == status
    assert len(seen) == (status == 200)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"x: y\r\n" * 99, 200),
        (b"x: y\r\n" * 100, 431),
        (b"x: " + b"a" * 65_400 + b"\r\n", 200),
        (b"x: " + b"a" * 65_536 + b"\r\n", 431),
    ],
    ids=["fields", "too many fields", "long", "too long"],
)
async def test_a_head_has_bounds_also_where_it_comes_at_once(head: bytes, status: int) -> None:
    async with listening(answering(ok())) as port, relaying(port) as stack:
        async with stack.client() as client:
            await client.say(b"GET /x HTTP/1.1\r\nhost: balancer\r\n" + head + b"\r\n")
            answer = await client.message()

    assert answer.status == status


async def test_a_connection_ends_where_no_head_comes_but_not_under_a_request() -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async with listening(holding(arrived, go)) as port, relaying(port) as stack:
        async with stack.client() as idle, stack.client() as slow, stack.client() as busy:
            await busy.say(chat())
            await slow.say(b"GET /x HTTP/1.1\r\n")
            await arrived.wait()
            stack.after(1)
            stack.after(1_000)
            assert await idle.closed() == b""
            assert (await slow.message()).status == 408
            assert await slow.closed() == b""
            go.set()
            assert (await busy.message()).status == 200


async def test_a_head_has_ten_seconds_however_many_pieces_it_comes_in() -> None:
    async with listening(answering(ok())) as port, relaying(port) as stack:
        async with stack.client() as slow, stack.client() as idle:
            for piece in (b"GET /x HTTP/1.1\r\nho", b"st: b\r\n", b"x: y\r\n"):
                await slow.say(piece)
            await idle.say(get(b"/x"), b"\r\n")
            await idle.message()
            stack.after(9)
            await slow.say(b"z: y\r\n")
            stack.after(11)
            assert (await slow.message()).status == 408
            await idle.say(get(b"/x"))
            assert (await idle.message()).status == 200


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/upload"])
async def test_a_body_of_which_nothing_more_comes_ends_its_request(path: bytes) -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.closed()

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(post(b"x" * 1_000, path)[:-500])
        await until(lambda: any(stack.begun.values()) and not any(c.paused for c in stack.clients))
        await client.say(b"x" * 100)
        stack.after(59)
        stack.after(1_000)
        answer = await client.message()
        assert await client.closed() == b""
        assert (await stack.record()).outcome == "client_disconnect"

    assert answer.status == 408


async def test_a_body_that_trickles_has_a_minute_and_what_it_takes_at_500_bytes_a_second() -> None:
    async def script(visit: Visit) -> None:
        await visit.closed()

    async with listening(script) as port, relaying(port) as stack:
        async with stack.client() as slow, stack.client() as slower:
            await slower.say(post(b"x" * 100_000)[:-99_999])
            await slow.say(post(b"x" * 100_000)[:-80_000])
            await until(lambda: sum(stack.begun.values()) == 2)
            stack.after(59)
            stack.after(62)
            answer = await slower.message()
            stack.after(90)
            assert not [record for record in stack.records if record.status == 200]
            await slow.say(b"x" * 10)
            stack.after(130)
            late = await slow.message()

    assert (answer.status, late.status) == (408, 408)
    assert "500 bytes a second" in json.loads(answer.body)["error"]["message"]


async def test_a_client_may_reset_its_connection_in_the_moment_its_time_is_over() -> None:
    async with listening(answering(ok())) as port, relaying(port) as stack:
        async with stack.client() as client:
            await client.say(post(b"x" * 1_000)[:-500])
            await until(lambda: any(stack.begun.values()))
            client.reset()
            stack.after(1_000)
        assert (await stack.record()).outcome == "client_disconnect"


async def test_an_upload_that_waits_for_its_server_is_in_nobodys_debt() -> None:
    go = asyncio.Event()
    body = b"x" * 30_000_000

    async def script(visit: Visit) -> None:
        await visit.head()
        await go.wait()
        await visit.reader.readexactly(len(body))
        await visit.say(ok())

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        sent = asyncio.ensure_future(client.say(post(body, b"/upload")))
        await until(lambda: any(c.paused for c in stack.clients))
        stack.after(1_000)
        go.set()
        await sent
        assert (await client.message()).status == 200


async def test_a_client_that_takes_nothing_more_of_its_answer_holds_no_place() -> None:
    gone = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(SSE)
        with contextlib.suppress(ConnectionError):
            while True:
                await visit.say(chunk(b"x" * 100_000))
        gone.set()

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(chat(stream=True))
        await until(lambda: any(not c.writable for c in stack.clients))
        stack.after(299)
        assert stack.in_flight == 1
        stack.after(301)
        await gone.wait()
        assert (await stack.record()).outcome == "client_disconnect"
        await until(lambda: not stack.in_flight)


async def test_a_client_that_takes_its_answer_slowly_is_waited_for() -> None:
    size = 20_000_000

    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(ok(b"x" * size))

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(get(b"/x"))
        await client.head()
        (transport,) = (c.transport for c in stack.clients)
        taken = 0
        for wait in range(0, 3_000, 290):
            stack.after(wait)
            before = transport.get_write_buffer_size()
            while 0 < before <= transport.get_write_buffer_size():
                taken += len(await client.reader.read(100_000))
        assert len(await client.reader.readexactly(size - taken)) == size - taken


async def test_a_target_may_be_a_whole_url() -> None:
    seen: list[Message] = []
    async with listening(answering(ok(), seen)) as port, relaying(port) as stack:
        for target in (b"http://balancer/page?a=1", b"http://balancer"):
            assert (await stack.ask(get(target))).status == 200

    assert [message.start for message in seen] == [
        "GET /page?a=1 HTTP/1.1",
        "GET / HTTP/1.1",
    ]


async def test_a_broken_answer_to_an_old_client_ends_with_a_reset() -> None:
    go = asyncio.Event()

    async def breaking(visit: Visit) -> None:
        await visit.message()
        await visit.say(SSE, chunk(b"data: 1\n\n"))
        await go.wait()
        visit.reset()

    async with listening(breaking) as port, relaying(port) as stack, stack.client() as client:
        await client.say(chat(stream=True).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        await client.head()
        assert await client.reader.readuntil(b"\n\n") == b"data: 1\n\n"
        go.set()
        with pytest.raises(ConnectionResetError):
            await client.reader.read()


async def test_the_rest_of_a_pipelined_request_may_come_later() -> None:
    seen: list[Message] = []
    async with listening(answering(ok(), seen)) as port, relaying(port) as stack:
        async with stack.client() as client:
            await client.say(chat() + chat(number=2)[:-5])
            assert (await client.message()).status == 200
            await client.say(chat(number=2)[-5:])
            assert (await client.message()).status == 200

    assert [b"number" in message.body for message in seen] == [False, True]


async def test_many_pipelined_requests_end_the_connection() -> None:
    arrived = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.message()
        arrived.set()
        await visit.closed()

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(get(b"/x"))
        await arrived.wait()
        await client.say(get(b"/x") * 1_000)
        assert await client.closed() == b""
        await stack.record()
        await until(lambda: not stack.in_flight)


async def test_an_error_reaches_a_client_that_is_still_sending() -> None:
    async with listening(answering(ok())) as port, relaying(port, max_body_bytes=100) as stack:
        async with stack.client() as client:
            sending = asyncio.ensure_future(client.say(post(b"x" * 30_000_000)))
            assert (await client.message()).status == 413
            await sending


@pytest.mark.skipif(sys.platform != "linux", reason="the options are Linux's")
async def test_a_client_that_vanishes_without_a_word_is_noticed_by_the_system() -> None:
    async with relaying() as stack, stack.client():
        await until(lambda: stack.clients)
        accepted = stack.clients[0].transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 300_000
