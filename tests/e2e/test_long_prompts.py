"""A prompt that is too long for a server goes to one where it fits, or its client is told."""

import asyncio
import json

import pytest

from tests.fakes.model_host import ModelHost, status
from tests.fakes.process import balancing
from tests.fakes.sockets import Message, Visit, chat, post

pytestmark = pytest.mark.anyio

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"


def limited(context: int, tokens: int = 500, *, late: bool = False) -> ModelHost:
    """Run a server of llama.cpp's kind of error, which may come in pieces."""

    async def handle(visit: Visit, message: Message) -> bytes | None:
        error = {
            "code": 400,
            "message": f"request ({tokens} tokens) exceeds the available context size",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": tokens,
            "n_ctx": context,
        }
        response = status(400, body=json.dumps({"error": error}).encode())
        if not late:
            return response
        head, _, body = response.partition(b"\r\n\r\n")
        for part in (head + b"\r\n\r\n", body[:20]):
            await visit.say(part)
            await asyncio.sleep(0.05)  # so that they come one by one
        return body[20:]

    return ModelHost(handle)


@pytest.mark.parametrize("late", [False, True])
async def test_a_prompt_that_is_too_long_goes_to_a_server_where_it_fits(late: bool) -> None:
    small, large = limited(400, late=late), ModelHost()
    async with small.running(), large.running():
        async with balancing({"A": small, "B": large}) as balancer:
            response = await balancer.ask(chat())
            errors = await balancer.metrics("upstream_errors_total")

    assert response.status == 200
    assert response["x-balancer-server"] == "B"
    assert (len(small.seen), len(large.seen)) == (1, 1)
    assert errors['reason="context",server="A"'] == 1


async def test_a_prompt_is_tried_once_more_and_not_where_it_is_known_not_to_fit() -> None:
    hosts = [limited(context) for context in (100, 200, 300)]
    async with hosts[0].running(), hosts[1].running(), hosts[2].running():
        servers = dict(zip("ABC", hosts, strict=True))
        async with balancing(servers) as balancer:
            seen = []
            for _ in range(3):
                assert (await balancer.ask(chat())).status == 400
                seen.append([len(host.seen) for host in hosts])

    assert seen[0] == [1, 1, 0]
    assert sum(seen[1]) - sum(seen[0]) == 2
    assert seen[1][2] == 1
    assert sum(seen[2]) - sum(seen[1]) == 1  # all are known


async def test_that_it_fits_nowhere_is_told_as_the_clients_of_each_api_know_it() -> None:
    host = limited(400)
    bodies = {}
    async with host.running(), balancing({"A": host}, routed_paths="all") as balancer:
        for path in (CHAT, MESSAGES, RESPONSES):
            asked = {"model": "m", "messages": [], "input": "hi"}
            response = await balancer.ask(post(json.dumps(asked).encode(), path.encode()))
            assert response.status == 400
            bodies[path] = json.loads(response.body)["error"]
        stream = json.dumps({"model": "m", "input": "hi", "stream": True}).encode()
        streamed = await balancer.ask(post(stream, RESPONSES.encode()))

    openais = {
        "message": "This model's maximum context length is 400 tokens; "
        "your prompt of 500 tokens is too long.",
        "type": "invalid_request_error",
        "code": "context_length_exceeded",
    }
    assert bodies[CHAT] == bodies[RESPONSES] == openais
    assert bodies[MESSAGES] == {
        "type": "invalid_request_error",
        "message": "prompt is too long: 500 tokens > 400 maximum",
    }
    assert streamed.status == 200
    event = json.loads(streamed.body.partition(b"data: ")[2])
    assert event["type"] == "response.failed"
    assert event["response"]["error"]["code"] == "context_length_exceeded"


async def test_any_other_error_of_a_server_is_passed_on_as_it_is() -> None:
    async def refuse(visit: Visit, message: Message) -> bytes | None:
        return status(400, body=b'{"error":{"message":"context_window must be a number"}}')

    host = ModelHost(refuse)
    async with host.running(), balancing({"A": host}) as balancer:
        response = await balancer.ask(chat())

    assert response.body == b'{"error":{"message":"context_window must be a number"}}'
