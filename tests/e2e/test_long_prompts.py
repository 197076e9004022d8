"""A prompt that is too long for a server goes to one where it fits, or its client is told."""

import asyncio
import itertools
import json

import pytest

from tests.fakes.model_host import COMPLETION, ModelHost, status
from tests.fakes.process import balancing
from tests.fakes.sockets import Message, Visit, chat, ok, post

pytestmark = pytest.mark.anyio

NUMBERS = itertools.count()

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


def counting(characters: int) -> ModelHost:
    """Run a server whose tokens have so many characters."""

    async def handle(visit: Visit, message: Message) -> bytes | None:
        completion = json.loads(COMPLETION)
        text = json.loads(message.body)["messages"][0]["content"]
        completion["usage"]["prompt_tokens"] = len(text) // characters
        return ok(json.dumps(completion).encode(), b"content-type: application/json")

    return ModelHost(handle)


def with_contexts(**servers: tuple[ModelHost, int]) -> dict[str, dict[str, object]]:
    """Write the settings of servers whose contexts have so many tokens."""
    return {
        name: {"addr": f"http://127.0.0.1:{host.port}", "context": context}
        for name, (host, context) in servers.items()
    }


def long_chat(characters: int, path: bytes = b"/v1/chat/completions") -> bytes:
    """Write a request with a prompt of so many characters, unlike all others."""
    text = f"{next(NUMBERS)} " + "word " * (characters // 5)
    messages = [{"role": "user", "content": text[:characters]}]
    return post(json.dumps({"model": "m", "messages": messages}).encode(), path)


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


async def test_a_prompt_goes_where_it_fits_from_the_start() -> None:
    small, large = counting(4), counting(4)
    async with small.running(), large.running():
        async with balancing(with_contexts(A=(small, 1000), B=(large, 4000))) as balancer:
            went = [
                (await balancer.ask(long_chat(characters)))["x-balancer-server"]
                for characters in (2000, 8000, 2000)
            ]
            told = await balancer.ask(long_chat(8000, b"/llmhealth-explain"))
            (listed,) = json.loads((await balancer.get("/v1/models")).body)["data"]

    assert went == ["A", "B", "A"]
    explanation = json.loads(told.body)
    assert 1900 < explanation["prompt_tokens"] < 2100
    assert [(one["context"], one["fits"]) for one in explanation["servers"]] == [
        (1000, False),
        (4000, True),
    ]
    assert listed["context_length"] == listed["max_model_len"] == 4000


async def test_what_servers_count_is_learnt_from() -> None:
    """A text of rare words has a token for each character, and that shows in the usage."""
    small, large = counting(1), counting(1)
    async with small.running(), large.running():
        async with balancing(with_contexts(A=(small, 1000), B=(large, 4000))) as balancer:
            went = [(await balancer.ask(long_chat(2000)))["x-balancer-server"] for _ in range(2)]

    assert went == ["A", "B"]


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
