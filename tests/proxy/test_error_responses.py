"""Requests that go to no server: what the client is told."""

import json

import pytest

from tests.fakes.ports import free_port
from tests.fakes.sockets import Message, answering, chat, chunk, listening, ok, post
from tests.fakes.stack import relaying

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b'{"model":5}',
        rb'{"model":"\ud800"}',
        b'{"model":' + b"[" * 1_001,
        b'{"model":"m","x":' + b"[" * 500_000 + b"]" * 500_000 + b"}",
        b'{"model":"m","model":"n"}',
        b'{"model":NaN}',
        b"\xff\xfe",
    ],
)
async def test_a_body_that_cannot_be_routed_is_the_clients_mistake(body: bytes) -> None:
    async with listening(answering(ok())) as port, relaying(port) as stack:
        async with stack.client() as client:
            await client.say(post(body))
            answer = await client.message()
            error = json.loads(answer.body)["error"]
            assert (answer.status, error["type"], error["code"]) == (
                400,
                "invalid_request_error",
                400,
            )
            await client.say(chat())
            assert (await client.message()).status == 200

    assert [record.outcome for record in stack.records] == ["client_error", "success"]


async def test_a_body_without_a_model_goes_to_the_fallback_unchanged() -> None:
    seen: list[Message] = []
    async with listening(answering(ok(), seen)) as port, relaying(port) as stack:
        assert (await stack.ask(post(b'{ "messages":[]}'))).status == 200

    assert seen[0].body == b'{ "messages":[]}'
    assert stack.records[0].reason == "fallback"


async def test_a_body_over_the_limit_is_refused_before_it_is_read() -> None:
    async with listening(answering(ok())) as port, relaying(port, max_body_bytes=100) as stack:
        async with stack.client() as client:
            await client.say(
                post(b"x" * 101, b"/v1/chat/completions", b"expect: 100-continue")[:-101]
            )
            answer = await client.message()
        assert answer.status == 413
        assert "BALANCER_MAX_BODY_BYTES" in answer.body.decode()
        async with stack.client() as client:
            await client.say(b"POST /v1/chat/completions HTTP/1.1\r\nhost: b\r\n")
            await client.say(b"transfer-encoding: chunked\r\n\r\n", chunk(b"x" * 101))
            assert (await client.message()).status == 413


async def test_an_error_before_the_end_of_the_body_is_the_last_on_its_connection() -> None:
    """What the client sent next was taken for the rest of the body, and never answered."""
    async with relaying(free_port(), max_body_bytes=100) as stack, stack.client() as client:
        await client.say(post(b"x" * 101, b"/v1/chat/completions", b"expect: 100-continue")[:-101])
        answer = await client.message()
        assert (answer.status, answer["connection"]) == (413, "close")
        assert await client.closed() == b""


async def test_a_client_of_ollamas_own_api_is_told_in_its_form() -> None:
    async with relaying(free_port(), routed_paths=("/api/chat",)) as stack:
        answer = await stack.ask(post(b'{"model":"m","messages":[]}', b"/api/chat"))

    assert answer.status == 502
    assert json.loads(answer.body) == {"error": "server A: it refuses connections"}
