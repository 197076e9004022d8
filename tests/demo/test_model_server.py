import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from app.demo.completion import Speed
from app.demo.model_server import ModelServer
from tests.fakes.clock import Clock
from tests.fakes.serving import Loop, serving

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
QUESTION = {"role": "user", "content": "What does a balancer do all day, and what at night?"}
HELD = Speed(decode=1)


async def for_ever(_: float) -> None:
    await asyncio.get_running_loop().create_future()


def inside(server: ModelServer) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(server.app), base_url="http://PC1")


async def chat(server: ModelServer, *messages: dict[str, str], **options: Any) -> httpx.Response:
    async with inside(server) as client:
        return await client.post(CHAT, json={"messages": messages or [QUESTION], **options})


def events(answer: httpx.Response) -> list[Any]:
    *blocks, rest = answer.text.split("\n\n")
    assert rest == ""
    data = [block.removeprefix("data: ") for block in blocks]
    assert data.pop() == "[DONE]"
    return [json.loads(text) for text in data]


async def test_a_stream_names_the_role_then_gives_the_text_then_says_why_it_ends() -> None:
    server = ModelServer()
    whole = (await chat(server)).json()["choices"][0]

    answer = await chat(server, stream=True)

    assert answer.headers["content-type"] == "text/event-stream"
    first, *middle, last = (event["choices"][0] for event in events(answer))
    assert first["delta"] == {"role": "assistant", "content": None}
    assert "".join(event["delta"]["content"] for event in middle) == whole["message"]["content"]
    assert (last["delta"], last["finish_reason"]) == ({}, whole["finish_reason"])


async def test_usage_is_streamed_to_who_asks_for_it() -> None:
    without = events(await chat(ModelServer(), stream=True))
    options = {"include_usage": True}
    usage = events(await chat(ModelServer(), stream=True, stream_options=options))[-1]

    assert not any("usage" in event for event in without)
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == usage["timings"]["predicted_n"] > 0


async def test_the_next_turn_of_a_conversation_reads_only_what_is_new() -> None:
    naps = []

    async def nap(seconds: float) -> None:
        naps.append(seconds)

    server = ModelServer(slots=2, speed=Speed(prefill=100), sleep=nap)
    first = (await chat(server)).json()
    await chat(server, {"role": "system", "content": "Talk like a pirate, and only at sea."})
    history = [QUESTION, first["choices"][0]["message"]]

    second = (await chat(server, *history, {"role": "user", "content": "Why?"})).json()

    known = first["usage"]["total_tokens"]
    assert second["usage"]["prompt_tokens_details"] == {"cached_tokens": known}
    assert second["timings"]["cache_n"] == known
    assert second["timings"]["prompt_n"] == len(["<|user|>", "Why?", "<|assistant|>"])
    assert second["timings"]["prompt_ms"] == 30.0
    assert naps[-1] == 0.03


async def test_an_answer_is_as_long_as_asked_for_or_ends_by_itself() -> None:
    server = ModelServer()
    cut = (await chat(server, max_tokens=3)).json()
    natural = (await chat(server, max_tokens=10_000)).json()
    endless = (await chat(server, max_tokens=10_000, ignore_eos=True)).json()

    assert [answer["choices"][0]["finish_reason"] for answer in (cut, natural, endless)] == [
        "length",
        "stop",
        "length",
    ]
    assert cut["usage"]["completion_tokens"] == 3
    assert endless["usage"]["completion_tokens"] == 10_000


async def test_a_model_that_is_not_in_the_list_is_not_found() -> None:
    answer = await chat(ModelServer(models=["a", "a-2"]), model="b")

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"messages": []}', b'{"messages": [1]}'])
async def test_a_body_that_asks_for_nothing_is_refused(body: bytes) -> None:
    async with inside(ModelServer()) as client:
        answer = await client.post(CHAT, content=body)

    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_llmhealth_tells_the_load_of_the_last_five_seconds() -> None:
    clock = Clock()
    server = ModelServer(clock=clock)
    async with inside(server) as client:
        before = (await client.get("/llmhealth")).json()
        await chat(server)
        clock.tick(4.9)
        after = (await client.get("/llmhealth")).json()
        clock.tick(0.1)
        later = (await client.get("/llmhealth")).json()

    assert before == {"status": "idle", "gpu_util_max5s": 0.0, "window_seconds": 5}
    assert after == {"status": "busy", "gpu_util_max5s": 70.0, "window_seconds": 5}
    assert later == before


async def test_each_model_has_slots_of_its_own_and_other_requests_wait_inside() -> None:
    server = ModelServer(models=["a", "a-2"], slots=1, speed=HELD, sleep=for_ever)
    asked = [asyncio.create_task(chat(server, model=model)) for model in ("a", "a", "a-2")]
    await asyncio.to_thread(server.wait_until, lambda: server.active == 3)

    busy = {model: [slot.busy for slot in slots] for model, slots in server.slots.items()}
    for task in asked:
        task.cancel()
    await asyncio.wait(asked)

    assert busy == {"a": [True], "a-2": [True]}
    assert (server.active, server.peak, server.served, server.cancelled) == (0, 3, 0, 3)


async def test_a_request_gets_the_slot_that_it_names() -> None:
    server = ModelServer(slots=2)

    for slot in (1, 1, 0):
        assert (await chat(server, id_slot=slot)).status_code == 200
    async with inside(server) as client:
        slots = (await client.get("/slots")).json()

    assert [slot["n_prompt_tokens_cache"] > 0 for slot in slots] == [True, True]
    assert (await chat(server, id_slot=2)).status_code == 400


async def test_a_slot_that_is_named_and_busy_is_waited_for() -> None:
    server = ModelServer(slots=2, speed=HELD, sleep=for_ever)
    asked = [asyncio.create_task(chat(server, id_slot=0)) for _ in range(2)]
    await asyncio.to_thread(server.wait_until, lambda: server.active == 2)

    assert [slot.busy for slot in server.slots["qwen3:8b"]] == [True, False]
    for task in asked:
        task.cancel()
    await asyncio.wait(asked)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_client_that_leaves_frees_its_slot_for_who_waits(loop: Loop) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    server = ModelServer(slots=1, speed=HELD, sleep=for_ever)
    body = {"messages": [QUESTION], "stream": True}
    with serving(server.app, loop=loop) as place:
        async with httpx.AsyncClient(base_url=place.url) as client:
            async with client.stream("POST", CHAT, json=body) as first:
                lines = first.aiter_lines()  # kept: the connection would close with it
                await anext(lines)
                request = client.build_request("POST", CHAT, json=body)
                waiting = asyncio.create_task(client.send(request, stream=True))
                await asyncio.to_thread(server.wait_until, lambda: server.active == 2)
                assert not waiting.done()
            second = await waiting
            assert (server.active, server.cancelled) == (1, 1)
            await second.aclose()
        await asyncio.to_thread(server.wait_until, lambda: server.active == 0)

    assert server.cancelled == 2


def test_openai_s_own_client_understands_the_answers() -> None:
    server = ModelServer(models=["a", "a-2"])
    with (
        serving(server.app) as place,
        openai.OpenAI(base_url=f"{place.url}/v1", api_key="none") as client,
    ):
        assert [model.id for model in client.models.list()] == ["a", "a-2"]
        stream = client.chat.completions.create(
            model="a-2",
            messages=[{"role": "user", "content": "Hello"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        *_, last = stream
        assert last.model == "a-2"
        assert last.usage is not None
        assert last.usage.completion_tokens > 0
        text = client.completions.create(model="a", prompt="Hello", max_tokens=2).choices[0]
        assert (text.finish_reason, len(text.text) > 0) == ("length", True)
        vectors = client.embeddings.create(model="a", input=["one", "two"]).data
        assert vectors[0].embedding != vectors[1].embedding
        with pytest.raises(openai.NotFoundError, match="b"):
            client.completions.create(model="b", prompt="Hello")

    assert [request.path for request in server.requests][:2] == ["/v1/models", CHAT]
    assert server.served == 3
