"""The pool over real sockets: when connections are kept, dialled and given up."""

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from app.upstream.connection import Connection, Head
from app.upstream.errors import TimedOut, Unreachable
from app.upstream.pool import Pool
from tests.fakes.ports import free_port
from tests.fakes.sockets import Visit, answering, listening, ok, until

pytestmark = pytest.mark.anyio

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class Answer:
    """Receives a response, whole or not."""

    def __init__(self) -> None:
        self.head: Head | None = None
        self.body = b""
        self.pieces = 0
        self.began = asyncio.Event()
        self.drained = asyncio.Event()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_response(self, head: Head | None, body: bytes, *, complete: bool) -> None:
        self.head = head or self.head
        self.body += body
        self.pieces += 1
        self.began.set()
        if complete:
            self.ended.set_result(None)

    def on_failed(self, error: Exception) -> None:
        self.ended.set_exception(error)

    def on_drained(self) -> None:
        self.drained.set()


async def asked(connection: Connection, request: bytes = REQUEST) -> Answer:
    answer = Answer()
    connection.request(request, answer)
    await answer.ended
    return answer


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


async def test_a_connection_is_used_again_once_its_answer_is_complete() -> None:
    async with listening(answering(ok())) as port:
        pool = Pool(url(port))
        first = await pool.connect()
        second = await pool.connect()
        assert second is not first
        await asked(first)

        assert await pool.connect() is first
        pool.close()


async def test_a_fresh_connection_is_never_a_kept_one() -> None:
    async with listening(answering(ok())) as port:
        pool = Pool(url(port))
        first = await pool.connect()
        await asked(first)

        assert await pool.connect(fresh=True) is not first
        pool.close()


@pytest.mark.parametrize("header", [b"connection: close", b"Connection: x, CLOSE"])
async def test_a_connection_that_the_server_wants_to_close_is_not_kept(header: bytes) -> None:
    async with listening(answering(ok(b"{}", header))) as port:
        pool = Pool(url(port))
        first = await pool.connect()
        await asked(first)

        assert await pool.connect() is not first
        pool.close()


async def test_an_idle_connection_is_closed_after_its_time() -> None:
    closed = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(ok())
        await visit.closed()
        closed.set()

    async with listening(script) as port:
        pool = Pool(url(port), keep_alive=0.01)
        await asked(await pool.connect())
        await closed.wait()

        assert repr(pool).endswith("0 busy, 0 idle>")


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        ("http://127.0.0.1:{port}", "it refuses connections"),
        ("http://nowhere.invalid", "its name cannot be resolved"),
    ],
)
async def test_no_connection_is_told_in_words_and_without_the_address(
    base: str, reason: str
) -> None:
    with pytest.raises(Unreachable) as failure:
        await Pool(base.format(port=free_port())).connect()

    assert str(failure.value) == reason


async def test_a_server_that_begins_no_answer_times_out() -> None:
    async def script(visit: Visit) -> None:
        await visit.closed()

    async with listening(script) as port:
        pool = Pool(url(port), first_byte_timeout=0.05)
        with pytest.raises(TimedOut, match="no response within"):
            await asked(await pool.connect())


async def test_the_head_of_a_response_has_ten_seconds_however_many_pieces_it_comes_in() -> None:
    thinking, go = asyncio.Event(), asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
        thinking.set()
        await go.wait()
        await visit.say(b"HTTP/1.1 200 OK\r\nx: ")
        await visit.closed()

    loop = asyncio.get_running_loop()
    async with listening(script) as port:
        pool = Pool(url(port))
        answer, connection = Answer(), await pool.connect()
        connection.request(REQUEST, answer)
        await thinking.wait()
        await asyncio.sleep(0)
        pool._look_after(loop.time() + 200)  # an interim response begins no head
        go.set()
        await until(lambda: connection.head_takes_long(loop.time() + 1_000))
        pool._look_after(loop.time() + 9)
        assert not answer.ended.done()
        pool._look_after(loop.time() + 11)
        with pytest.raises(TimedOut, match="the head did not come within 10 s"):
            await answer.ended


async def test_a_server_that_falls_silent_times_out() -> None:
    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
        await visit.closed()

    async with listening(script) as port:
        pool = Pool(url(port), idle_timeout=0.05)
        with pytest.raises(TimedOut, match="silent for"):
            await asked(await pool.connect())


async def test_a_server_that_we_do_not_read_does_not_time_out() -> None:
    async with listening(answering(ok(b"x" * 1_000))) as port:
        pool = Pool(url(port), idle_timeout=0.02, first_byte_timeout=0.02)
        connection = await pool.connect()
        connection.pause()
        answer = Answer()
        connection.request(REQUEST, answer)
        await asyncio.sleep(0.1)  # several rounds of the pool's timer
        connection.resume()
        await answer.ended
        pool.close()


async def test_closing_the_pool_closes_every_connection() -> None:
    closed = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.closed()
        closed.set()

    async with listening(script) as port:
        pool = Pool(url(port))
        await pool.connect()
        pool.close()
        await closed.wait()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
async def test_a_certificate_that_nobody_vouches_for_is_no_connection(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -days 1"
    subprocess.run(  # noqa: ASYNC221
        [*command.split(), "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context
    )
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(Unreachable, match="no TLS session came about"):
            await Pool(f"https://127.0.0.1:{port}").connect()
