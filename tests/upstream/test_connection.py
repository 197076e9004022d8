"""The connection over real sockets: how answers are framed, and what is no response."""

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import AsyncIterator

import pytest

from app.upstream.connection import Connection, Head
from app.upstream.errors import Broken, Garbled, Stale, Unheard, UpstreamError
from app.upstream.pool import Pool
from tests.fakes.sockets import Script, Visit, answering, listening, ok
from tests.upstream.test_pool import REQUEST, Answer, asked, url

pytestmark = pytest.mark.anyio

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def saying(*pieces: bytes, close: bool = False) -> Script:
    """Write a script that answers one request in pieces, each in a packet of its own."""

    async def script(visit: Visit) -> None:
        await visit.message()
        for piece in pieces:
            await visit.say(piece)
            await asyncio.sleep(0)
        if not close:
            await visit.closed()

    return script


@pytest.mark.parametrize(
    ("pieces", "close", "body"),
    [
        ([ok(b"whole")], False, b"whole"),
        ([ok(b"split")[:20], ok(b"split")[20:]], False, b"split"),
        ([bytes([byte]) for byte in ok(b"bytes")], False, b"bytes"),
        ([CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"], False, b"abcde"),
        ([CHUNKED, b"3\r\na", b"bc\r\n0\r\nx-trailer: 1\r\n", b"\r\n"], False, b"abc"),
        ([b"HTTP/1.1 200 OK\r\n\r\nuntil ", b"the end"], True, b"until the end"),
        ([b"HTTP/1.0 200 OK\r\n\r\nold"], True, b"old"),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], False, b""),
        ([b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n"], False, b""),
        (
            [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\na: b\r\n\r\n" + ok(b"x")],
            False,
            b"x",
        ),
    ],
)
async def test_answers_are_taken_in_every_framing(
    pieces: list[bytes], close: bool, body: bytes
) -> None:
    async with listening(saying(*pieces, close=close)) as port:
        pool = Pool(url(port))
        answer = await asked(await pool.connect())
        pool.close()

    assert answer.body == body
    assert answer.head is not None
    assert all(name == name.lower() for name, _ in answer.head.headers)
    assert not {b"x-trailer", b"a"} & {name for name, _ in answer.head.headers}


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-len",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhalf",
        CHUNKED + b"5\r\nhal",
        CHUNKED + b"4\r\nhalf\r\n",
    ],
)
async def test_an_answer_that_ends_too_early_is_never_complete(said: bytes) -> None:
    async with listening(saying(said, close=True)) as port:
        with pytest.raises(Broken):
            await asked(await Pool(url(port)).connect())


@pytest.mark.parametrize(
    "said",
    [
        b"hello\r\n\r\n",
        b"HTTP/1.1 700 Odd\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"zz\r\n",
        b"HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000,
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 65_600 + b"\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 101 + b"\r\n",
    ],
)
async def test_what_is_not_http_is_told(said: bytes) -> None:
    async with listening(saying(said)) as port:
        with pytest.raises(Garbled):
            await asked(await Pool(url(port)).connect())


@contextlib.asynccontextmanager
async def kept() -> AsyncIterator[tuple[Pool, Connection, socket.socket]]:
    """Give a kept connection and the server's end of it, which is closed without the event loop."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pool = Pool(url(listener.getsockname()[1]))
        connection = await pool.connect()
        server, _ = listener.accept()
        answer = Answer()
        connection.request(REQUEST, answer)
        server.recv(1000)
        server.sendall(ok())
        await answer.ended
        with server:
            yield pool, connection, server
        pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what was acknowledged")
async def test_a_kept_connection_that_was_closed_before_the_request_is_stale() -> None:
    async with kept() as (_, connection, server):
        server.close()

        with pytest.raises(Stale):
            await asked(connection)


async def test_a_kept_connection_that_is_closed_with_the_request_in_hand_is_not_stale() -> None:
    async with kept() as (_, connection, server):
        answer = Answer()
        connection.request(REQUEST, answer)
        await asyncio.to_thread(server.recv, 1000)
        server.close()

        with pytest.raises(Unheard):
            await answer.ended


async def test_a_kept_connection_that_is_reset_with_the_request_in_hand_is_not_stale() -> None:
    async with kept() as (_, connection, server):
        answer = Answer()
        connection.request(REQUEST, answer)
        await asyncio.to_thread(server.recv, 1000)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.close()

        with pytest.raises(Unheard):
            await answer.ended


async def test_a_request_can_be_cancelled_in_the_moment_of_a_reset() -> None:
    async with kept() as (_, connection, server):
        connection.request(REQUEST, Answer())
        await asyncio.to_thread(server.recv, 1000)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.close()

        connection.cancel()

        assert not connection.usable


async def test_a_kept_connection_that_the_server_closed_is_not_handed_out() -> None:
    async with kept() as (pool, _, server):
        server.close()

        assert pool.kept(repeatable=True) is None


async def test_a_kept_connection_that_breaks_in_its_answer_is_broken_not_stale() -> None:
    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(ok())
        await visit.message()
        await visit.say(b"HTTP/1.1")

    async with listening(script) as port:
        pool = Pool(url(port))
        await asked(await pool.connect())
        with pytest.raises(Broken):
            await asked(await pool.connect())


async def test_bytes_that_nobody_asked_for_close_the_connection() -> None:
    say = asyncio.Event()
    closed = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(ok())
        await say.wait()
        await visit.say(ok(b"poison"))
        await visit.closed()
        closed.set()

    async with listening(script) as port:
        pool = Pool(url(port))
        connection = await pool.connect()
        await asked(connection)
        say.set()
        await closed.wait()

        assert not connection.usable


async def test_what_follows_an_answer_in_its_packet_ends_the_connection_not_the_answer() -> None:
    async with listening(saying(ok(b"mine") + ok(b"poison"))) as port:
        pool = Pool(url(port))
        connection = await pool.connect()
        answer = await asked(connection)

        assert answer.body == b"mine"
        assert not connection.usable


async def test_a_pause_stops_the_reading_and_a_resume_goes_on() -> None:
    size = 20_000_000
    finished = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        await visit.say(b"x" * size)
        finished.set()
        await visit.closed()

    async with listening(script) as port:
        pool = Pool(url(port))
        connection = await pool.connect()
        answer = Answer()
        connection.request(REQUEST, answer)
        await answer.began.wait()
        connection.pause()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(finished.wait(), 0.2)
        connection.resume()
        await answer.ended
        pool.close()

    assert len(answer.body) == size


async def test_sending_more_than_the_server_takes_is_told_and_can_be_waited_for() -> None:
    read = asyncio.Event()
    size = 20_000_000

    async def script(visit: Visit) -> None:
        await visit.head()
        await read.wait()
        assert len(await visit.reader.readexactly(size)) == size
        await visit.say(ok())

    async with listening(script) as port:
        pool = Pool(url(port))
        connection = await pool.connect()
        answer = Answer()
        head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size
        connection.request(head, answer, unfinished=True)
        assert not connection.send(b"x" * size, last=True)
        read.set()
        await answer.drained.wait()
        await answer.ended
        pool.close()


async def test_an_aborted_exchange_tells_its_receiver_nothing() -> None:
    gone = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.closed()
        gone.set()

    async with listening(script) as port:
        connection = await Pool(url(port)).connect()
        answer = Answer()
        connection.request(REQUEST, answer)
        await asyncio.sleep(0)
        connection.abort()
        await gone.wait()

        assert not answer.ended.done()


async def test_every_failure_is_an_upstream_error() -> None:
    assert all(issubclass(kind, UpstreamError) for kind in (Stale, Broken, Garbled))
    async with listening(answering(ok())) as port:
        pool = Pool(url(port))
        assert (await asked(await pool.connect())).pieces == 1
        pool.close()


class Faulty(Answer):
    """A receiver with a fault of its own."""

    def on_response(self, head: Head | None, body: bytes, *, complete: bool) -> None:
        raise KeyError(body)


@pytest.mark.parametrize("answer", [ok(b"x"), ok(b"xy")[:-1]], ids=["whole", "begun"])
async def test_a_fault_of_the_receiver_ends_the_exchange(answer: bytes) -> None:
    async with listening(answering(answer)) as port:
        pool = Pool(url(port))
        receiver = Faulty()
        (await pool.connect()).request(REQUEST, receiver)
        with pytest.raises(KeyError):
            await receiver.ended
        pool.close()
