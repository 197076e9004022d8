"""A request is answered by the model that it names, or by none."""

import asyncio
import json

import pytest

from tests.fakes.model_host import STREAM_END, ModelHost, complete, status
from tests.fakes.ports import free_port
from tests.fakes.process import balancing
from tests.fakes.sockets import SSE, Message, Visit, chat, chunk, ok, post

pytestmark = pytest.mark.anyio


async def test_a_number_makes_an_instance_only_where_the_numbers_have_no_gap() -> None:
    a, b = ModelHost(complete, ["gemma", "gemma-3", "phi"]), ModelHost(complete, ["phi-4", "gpt-4"])
    async with a.running(), b.running(), balancing({"A": a, "B": b}) as balancer:
        listed = json.loads((await balancer.get("/v1/models")).body)["data"]
        await asyncio.gather(*(balancer.ask(chat(name)) for name in ["gemma", "phi", "gpt"] * 4))

    assert [model["id"] for model in listed] == ["gemma", "gemma-3", "gpt-4", "phi", "phi-4"]
    assert set(a.asked_for) | set(b.asked_for) == {"gemma", "phi", "gpt"}
    assert set(a.asked_for) >= {"gemma", "phi"}


async def test_instances_can_be_switched_off() -> None:
    host = ModelHost(complete, ["sql-lora", "sql-lora-2"])
    async with host.running(), balancing({"A": host}, instances="off") as balancer:
        listed = json.loads((await balancer.get("/v1/models")).body)["data"]
        await asyncio.gather(*(balancer.ask(chat("sql-lora")) for _ in range(4)))

    assert [model["id"] for model in listed] == ["sql-lora", "sql-lora-2"]
    assert set(host.asked_for) == {"sql-lora"}


async def test_an_agents_own_names_stand_for_the_models_that_there_are() -> None:
    host = ModelHost(complete, ["qwen3-coder", "qwen3:4b"])
    aliases = json.dumps({"claude-haiku.*": "qwen3:4b", "claude-.*": "qwen3-coder", "gpt": "none"})
    async with host.running(), balancing({"A": host}, aliases=aliases) as balancer:
        listed = json.loads((await balancer.get("/v1/models")).body)["data"]
        for name in ("claude-opus-4-8", "claude-haiku-4-5", "qwen3:4b"):
            assert (await balancer.ask(chat(name))).status == 200

    assert host.asked_for == ["qwen3-coder", "qwen3:4b", "qwen3:4b"]
    assert [model["id"] for model in listed] == ["qwen3-coder", "qwen3:4b"]


async def test_a_response_names_the_model_that_was_asked_for() -> None:
    whole = b'{"id":"1","choices":[],"model":"qwen"}'
    events = [b'data: {"model":"qwen",', b'"choices":[]}\n\ndata: {"mo', b'del":"qwen"}\n\n']

    async def handle(visit: Visit, message: Message) -> bytes | None:
        if json.loads(message.body).get("stream"):
            await visit.say(SSE)
            for piece in events:
                await visit.say(chunk(piece))
                await asyncio.sleep(0.05)  # so that they come one by one
            return STREAM_END
        response = ok(whole, b"content-type: application/json")
        await visit.say(response[:-20])
        await asyncio.sleep(0.05)
        return response[-20:]

    host = ModelHost(handle, ["qwen"])
    aliases = json.dumps({"claude-.*": "qwen"})
    async with host.running(), balancing({"A": host}, aliases=aliases) as balancer:
        response = await balancer.ask(chat("claude-opus"))
        own = await balancer.ask(chat("qwen"))
        stream = await balancer.ask(chat("claude-opus", stream=True))

    assert response.body == whole.replace(b"qwen", b"claude-opus")
    assert own.body == whole
    end = b"data: [DONE]\n\n"
    assert stream.body == b"".join([*events, end]).replace(b"qwen", b"claude-opus")


async def test_a_name_that_nothing_serves_gets_an_error_that_lists_what_there_is() -> None:
    async def refuse(visit: Visit, message: Message) -> bytes | None:
        name = json.loads(message.body)["model"]
        body = json.dumps({"error": f"model {name!r} not found"}).encode()
        await visit.say(b"HTTP/1.1 404 X\r\ncontent-length: %d\r\n\r\n" % len(body))
        await asyncio.sleep(0.05)  # so that the body comes later
        return body

    host = ModelHost(refuse, ["qwen", "qwen-2", "phi"])
    async with host.running(), balancing({"A": host}, routed_paths="all") as balancer:
        openais = await balancer.ask(chat("gpt"))
        anthropics = await balancer.ask(post(b'{"model":"gpt"}', b"/v1/messages"))
        ollamas = await balancer.ask(post(b'{"model":"gpt"}', b"/api/chat"))
        listed = await balancer.ask(chat("qwen"))

    message = 'no server has the model "gpt"; there are: phi, qwen'
    error = {"message": message, "type": "not_found_error", "code": 404}
    assert json.loads(openais.body) == {"error": error}
    error = {"type": "not_found_error", "message": message}
    assert json.loads(anthropics.body) == {"type": "error", "error": error}
    assert json.loads(ollamas.body) == {"error": message}
    assert json.loads(listed.body) == {"error": "model 'qwen' not found"}


async def test_a_404_that_is_not_about_the_model_is_the_servers_own() -> None:
    async def refuse(visit: Visit, message: Message) -> bytes | None:
        return status(404, body=b'{"error":"no such path"}')

    host = ModelHost(refuse)
    async with host.running(), balancing({"A": host}) as balancer:
        response = await balancer.ask(chat("gpt"))

    assert response.body == b'{"error":"no such path"}'


async def test_no_other_model_answers_for_one_whose_server_is_down() -> None:
    small, big = ModelHost(complete, ["small"]), ModelHost(complete, ["big"])
    async with small.running():
        async with big.running() as port:
            running = balancing({"A": small, "B": {"addr": f"http://127.0.0.1:{port}"}})
            balancer = await running.__aenter__()
            assert (await balancer.ask(chat("big"))).status == 200
        at_once = await balancer.ask(chat("big"))
        await balancer.until(lambda: balancer.events("server.down"))
        later = await balancer.ask(chat("big"))
        await running.__aexit__(None, None, None)

    for response in (at_once, later):
        assert response.status == 503
        assert '"big" is on B alone' in json.loads(response.body)["error"]["message"]
        assert "retry-after" in response
    assert small.asked_for == []


async def test_requests_of_the_first_second_wait_for_the_model_lists() -> None:
    async def slowly(visit: Visit, message: Message) -> bytes | None:
        await asyncio.sleep(0.5)
        return b.list_models(message)

    a = ModelHost(complete, ["a"])
    b = ModelHost(complete, ["b", "b-edit"], probe=slowly)
    async with a.running(), b.running(), balancing({"A": a, "B": b}, ready=False) as balancer:
        responses = [await balancer.ask(chat(name)) for name in ("b", "b-edit")]

    assert [response.status for response in responses] == [200, 200]
    assert (a.asked_for, b.asked_for) == ([], ["b", "b-edit"])


async def test_a_server_that_is_away_holds_nobody_up_for_long() -> None:
    a = ModelHost(complete, ["a"])
    away = {"addr": f"http://127.0.0.1:{free_port()}"}
    async with a.running():
        servers: dict[str, ModelHost | dict[str, str]] = {"A": a, "B": away}
        async with balancing(servers, ready=False) as balancer, asyncio.timeout(3):
            assert (await balancer.ask(chat("a"))).status == 200


async def test_only_gpt_oss_loses_its_suffixes() -> None:
    host = ModelHost(complete, ["gpt-oss:20b"])
    async with host.running(), balancing({"A": host}) as balancer:
        for name in ("qwen-image-edit", "gpt-oss:20b-edit", "gpt-oss:20b-high"):
            await balancer.ask(chat(name))

    assert host.asked_for == ["qwen-image-edit", "gpt-oss:20b", "gpt-oss:20b"]
