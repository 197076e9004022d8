"""A stream whose end is the end of the connection, and that says not that it is over, is broken."""

import pytest

from tests.fakes.model_host import ModelHost
from tests.fakes.process import balancing
from tests.fakes.sockets import Message, Visit, post

pytestmark = pytest.mark.anyio

EVENTS = b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
LINES = b"HTTP/1.0 200 OK\r\ncontent-type: application/x-ndjson\r\n\r\n"

STREAMS = {
    b"/v1/chat/completions": (EVENTS, b'data: {"choices":[]}\n\n', b"data: [DONE]\n\n"),
    b"/v1/responses": (
        EVENTS,
        b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta"}\n\n',
        b'event: response.completed\ndata: {"type":"response.completed"}\n\n',
    ),
    b"/v1/messages": (
        EVENTS,
        b'event: ping\ndata: {"type":"ping"}\n\n',
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    ),
    b"/api/chat": (LINES, b'{"done":false}\n', b'{"done":true}\n'),
}


async def test_a_stream_that_breaks_off_ends_in_an_error_and_one_that_is_over_does_not() -> None:
    whole: bool = False

    async def stream(visit: Visit, message: Message) -> bytes | None:
        head, piece, end = STREAMS[message.start.split()[1].encode()]
        await visit.say(head + piece)
        if whole:
            await visit.say(end[:5])  # an end may come in two pieces
            await visit.say(end[5:])
        return None

    host = ModelHost(stream)
    async with host.running(), balancing({"A": host}, routed_paths="all") as balancer:
        for path, (_, piece, end) in STREAMS.items():
            request = post(b'{"model":"m","stream":true}', path)
            whole = True
            response = await balancer.ask(request)
            assert response.body == piece + end

            whole = False
            async with balancer.client() as client:
                await client.say(request)
                await client.head()
                received = await client.closed()
            assert b"middle of its stream" in received
            assert not received.endswith(b"\r\n0\r\n\r\n")
        await balancer.until(lambda: len(balancer.events("request")) == 8)
        outcomes = [line["outcome"] for line in balancer.events("request")]

    assert outcomes == ["success", "upstream_error"] * 4
