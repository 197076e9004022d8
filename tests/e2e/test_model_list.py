"""Clients see the models that they can ask for, whatever server has them."""

import contextlib
import json
from typing import Any

import pytest

from tests.fakes.model_host import ModelHost
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import Message, Visit, bearer, get, ok

pytestmark = pytest.mark.anyio


def telling(*models: dict[str, object]) -> ModelHost:
    """Make a server that says more of its models than their names."""

    async def list_models(visit: Visit, message: Message) -> bytes:
        if message.start.split()[1] != "/v1/models":
            return b"HTTP/1.1 404 \r\ncontent-length: 0\r\n\r\n"
        return ok(json.dumps({"object": "list", "data": models}).encode())

    return ModelHost(probe=list_models)


BIG = {"id": "big", "created": 7, "owned_by": "vllm", "max_model_len": 8192, "meta": {"size": 5}}


async def models(balancer: Running, path: str = "/v1/models") -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads((await balancer.get(path)).body)["data"]
    return listed


async def names(balancer: Running) -> list[str]:
    return [model["id"] for model in await models(balancer)]


async def test_what_a_server_says_of_a_model_is_kept() -> None:
    host = telling(BIG)
    async with host.running(), balancing({"A": host}, aliases='{"gpt": "big"}') as balancer:
        listed = await models(balancer)
        for path in ("/v1/models/", "/models", "/models/"):
            assert await models(balancer, path) == listed

    big = {**BIG, "object": "model", "context_length": 8192}
    assert listed == [big, {**big, "id": "gpt"}]


async def test_one_model_is_described_under_any_name_that_it_has() -> None:
    host = telling(BIG, {"id": "org/small"})
    async with host.running(), balancing({"A": host}, aliases='{"gpt": "big"}') as balancer:
        described = [
            json.loads((await balancer.get(f"/v1/models/{name}")).body)
            for name in ("big", "gpt", "org/small")
        ]
        unknown = await balancer.get("/v1/models/other")

    assert [(one["id"], one["created"]) for one in described] == [
        ("big", 7),
        ("gpt", 7),
        ("org/small", 0),
    ]
    assert unknown.status == 404
    assert json.loads(unknown.body)["error"]["code"] == "model_not_found"


async def test_only_what_requests_can_reach_is_listed() -> None:
    first, second = telling({"id": "a"}, {"id": "c"}), telling({"id": "b"}, {"id": "d"})
    async with (
        first.running(),
        second.running(),
        balancing({"A": first, "B": second}, {"a|b": ["A"], "d": ["B"]}) as balancer,
    ):
        # b is on a server that its pattern does not name; c is the fallback's.
        assert await names(balancer) == ["a", "c", "d"]


async def test_models_leave_the_list_when_their_server_has_been_away_for_long() -> None:
    first, second = telling({"id": "a"}), telling({"id": "a"}, {"id": "b"})
    async with first.running(), contextlib.AsyncExitStack() as running:
        await running.enter_async_context(second.running())
        async with balancing({"A": first, "B": second}, models_interval=1) as balancer:
            assert await names(balancer) == ["a", "b"]
            await running.aclose()

            async def only_a() -> bool:
                return await names(balancer) == ["a"]

            await balancer.until(only_a)


async def test_a_key_s_client_finds_what_it_may_use() -> None:
    host = telling({"id": "a"}, {"id": "b"})
    keys = json.dumps({"alice": {"key": "sk-alice-0123456789", "models": ["a"]}})
    async with host.running(), balancing({"A": host}, api_keys=keys, ready=False) as balancer:
        shown = bearer("sk-alice-0123456789")

        async def asked() -> list[str]:
            response = await balancer.ask(get(b"/v1/models", shown))
            return [model["id"] for model in json.loads(response.body)["data"]]

        await balancer.until(asked)
        assert await asked() == ["a"]
        statuses = [
            (await balancer.ask(request)).status
            for request in (
                get(b"/v1/models/a", shown),
                get(b"/v1/models/b", shown),
                get(b"/v1/models/a"),
                get(b"/models"),
            )
        ]

    assert statuses == [200, 404, 401, 401]
