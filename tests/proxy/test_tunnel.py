"""WebSockets: after the upgrade, bytes pass untouched both ways."""

import asyncio

import pytest

from tests.fakes.sockets import SWITCHING, UPGRADE, Message, Visit, answering, get, listening, ok
from tests.fakes.stack import relaying

pytestmark = pytest.mark.anyio

OPENING = get(b"/ws", *UPGRADE)


async def echo(visit: Visit) -> None:
    head = await visit.head()
    assert (head["upgrade"], head["connection"]) == ("websocket", "upgrade")
    assert head["sec-websocket-key"] == "dGhlIHNhbXBsZSBub25jZQ=="
    await visit.say(SWITCHING + b"hello")
    while data := await visit.reader.read(65_536):
        await visit.say(data)


async def test_bytes_pass_both_ways_until_the_client_leaves() -> None:
    async with listening(echo) as port, relaying(port) as stack:
        async with stack.client() as client:
            await client.say(OPENING)
            head = await client.head()
            assert (head.status, head["sec-websocket-accept"]) == (101, "x")
            assert await client.reader.readexactly(5) == b"hello"
            for data in (b"\x81\x02hi", b"x" * 300_000):
                reading = asyncio.ensure_future(client.reader.readexactly(len(data)))
                await client.say(data)
                assert await reading == data
        record = await stack.record()

    assert (record.status, record.outcome) == (101, "success")


async def test_the_server_may_end_it() -> None:
    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(SWITCHING, b"bye")

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(OPENING)
        await client.head()
        assert await client.closed() == b"bye"
        await stack.record()


async def test_a_server_that_does_not_upgrade_answers_as_ever() -> None:
    async with listening(answering(ok(b"plain"))) as port, relaying(port) as stack:
        assert (await stack.ask(OPENING)).body == b"plain"


async def test_an_upgrade_to_anything_else_is_not_offered_to_the_server() -> None:
    seen: list[Message] = []
    request = get(
        b"/x", b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: x"
    )
    async with listening(answering(ok(b"plain"), seen)) as port, relaying(port) as stack:
        assert (await stack.ask(request)).body == b"plain"

    assert "upgrade" not in seen[0]
    assert "http2-settings" not in seen[0]


async def test_a_slow_reader_slows_the_other_side_down() -> None:
    size = 40_000_000
    finished = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.head()
        await visit.say(SWITCHING)
        for _ in range(size // 100_000):
            await visit.say(b"x" * 100_000)
        finished.set()
        await visit.closed()

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(OPENING)
        await client.head()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(finished.wait(), 0.3)
        assert len(await client.reader.readexactly(size)) == size
        await finished.wait()
