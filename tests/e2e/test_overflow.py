"""A cloud API takes what the own servers have no room for; another model answers for one down."""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.fakes.model_host import ModelHost
from tests.fakes.ports import free_port
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import Message, Visit, bearer, chat, ok, post

pytestmark = pytest.mark.anyio

KEY = "sk-of-the-cloud"
ALICE, BOB, ADMIN = "sk-alice-0123456789", "sk-bob-0123456789", "admin-0123456789"


def own(host: ModelHost, **more: object) -> dict[str, object]:
    return {**host.limited(1), **more}


def cloud(host: ModelHost, **more: object) -> dict[str, object]:
    addr = f"http://127.0.0.1:{host.port}"
    return {"addr": addr, "api_key": KEY, "health": "openai", "tier": 2, **more}


class Held:
    """A server whose responses wait."""

    def __init__(self, **more: Any) -> None:
        self.arrived, self.go = asyncio.Event(), asyncio.Event()
        self.host = ModelHost(self._handle, **more)

    async def _handle(self, visit: Visit, message: Message) -> bytes | None:
        self.arrived.set()
        await self.go.wait()
        return ok()


async def server_of(balancer: Running, model: str = "m") -> str:
    response = await balancer.ask(chat(model))
    assert response.status == 200, response.body
    return response["x-balancer-server"]


async def test_a_cloud_gets_what_has_waited_for_an_own_server_and_only_that() -> None:
    held, remote = Held(), ModelHost(models=("org/M",))
    async with held.host.running(), remote.running():
        servers = {"A": own(held.host), "C": cloud(remote, models={"m": "org/M"})}
        async with balancing(servers, tier_wait=0.3, admin_key="opensesame") as balancer:
            first = asyncio.create_task(balancer.ask(chat()))
            await held.arrived.wait()
            over = [asyncio.create_task(balancer.ask(chat())) for _ in range(3)]
            await balancer.until(lambda: _waiting(balancer, 3))
            assert remote.seen == []
            went = [(await one)["x-balancer-server"] for one in over]
            held.go.set()
            assert (await first)["x-balancer-server"] == "A"
            assert await server_of(balancer) == "A"
            counted = await balancer.metrics("upstream_responses_total")

    assert went == ["C", "C", "C"]
    assert remote.seen[0]["authorization"] == f"Bearer {KEY}"
    assert remote.asked_for == ["org/M"] * 3
    assert counted['code="2xx",server="C"'] == 3


async def test_a_place_that_becomes_free_in_time_is_taken() -> None:
    held, remote = Held(), ModelHost()
    async with held.host.running(), remote.running():
        servers = {"A": own(held.host), "C": cloud(remote)}
        async with balancing(servers, tier_wait=20) as balancer:
            asking = [asyncio.create_task(balancer.ask(chat())) for _ in range(2)]
            await balancer.until(lambda: _waiting(balancer, 1))
            held.go.set()
            went = [(await one)["x-balancer-server"] for one in asking]

    assert went == ["A", "A"]


async def test_nobody_waits_for_servers_that_are_down_nor_beside_a_full_queue() -> None:
    held, remote = Held(), ModelHost()
    async with held.host.running(), remote.running():
        away: dict[str, object] = {"addr": f"http://127.0.0.1:{free_port()}"}
        servers: dict[str, dict[str, object]] = {"A": own(held.host), "B": away}
        servers["C"] = cloud(remote)
        models = {"m": ["A", "C"], "other": ["B", "C"]}
        remote.models = ("m", "other")
        async with balancing(servers, models, ready=False, tier_wait=20, queue_max=0) as balancer:
            await balancer.until(lambda: _lists(balancer, "A", "C"))
            first = asyncio.create_task(balancer.ask(chat()))
            await held.arrived.wait()
            went = [await server_of(balancer, model) for model in ("other", "m")]
            held.go.set()
            await first

    assert went == ["C", "C"]


async def test_a_cloud_gets_no_more_in_an_hour_than_it_may() -> None:
    host, remote = ModelHost(), ModelHost()
    async with host.running(), remote.running():
        servers = {"A": own(host), "C": cloud(remote, tier=1, requests_per_hour=2)}
        models = {"m": ["C"], "other": ["A"]}
        async with balancing(servers, models, queue_timeout=0.2) as balancer:
            statuses = [(await balancer.ask(chat())).status for _ in range(3)]

    assert statuses == [200, 200, 503]
    assert len(remote.seen) == 2


async def test_another_model_responds_while_no_server_of_the_one_asked_for_is_up() -> None:
    big, medium = ModelHost(models=("big",)), ModelHost(models=("medium",))
    async with medium.running(), AsyncExitStack() as stack:
        await stack.enter_async_context(big.running())
        servers = {"A": own(big), "B": own(medium)}
        fallbacks = json.dumps({"big": ["none", "medium"]})
        keys = json.dumps({"alice": ALICE, "bob": {"key": BOB, "models": ["big"]}})
        async with balancing(
            servers, model_fallbacks=fallbacks, api_keys=keys, admin_key=ADMIN, ready=False
        ) as balancer:
            await balancer.until(lambda: _responds(balancer, "big"))
            usual = await balancer.ask(asking("big"))
            await stack.aclose()
            await balancer.until(lambda: _responds(balancer, "big", "B"))
            instead = await balancer.ask(asking("big"))
            closed = await balancer.ask(asking("big", BOB))
            await balancer.until(lambda: _last(balancer).get("status") == 503)
            logged = balancer.events("request")[-2]

    assert usual["x-balancer-server"] == "A"
    assert "x-balancer-model" not in usual
    assert (instead["x-balancer-server"], instead["x-balancer-model"]) == ("B", "medium")
    assert set(medium.asked_for) == {"medium"}
    assert closed.status == 503
    assert (logged["asked_model"], logged["model"]) == ("big", "medium")


def _last(balancer: Running) -> dict[str, Any]:
    """Return what was logged of the last request."""
    return (balancer.events("request") or [{}])[-1]


def asking(model: str, key: str = ALICE) -> bytes:
    body = json.dumps({"model": model, "messages": []}).encode()
    return post(body, b"/v1/chat/completions", bearer(key))


async def _responds(balancer: Running, model: str, server: str = "") -> bool:
    """Whether a model's request is served, by a server of that name if there is one."""
    response = await balancer.ask(asking(model))
    return response.status == 200 and server in ("", response["x-balancer-server"])


async def _waiting(balancer: Running, count: int) -> bool:
    waiting: int = (await balancer.snapshot())["queue"]["waiting"]
    return waiting == count


async def _lists(balancer: Running, *servers: str) -> bool:
    """Whether these servers have listed their models."""
    found = (await balancer.snapshot())["backends"]
    return {one["name"] for one in found if one["models"]} == {*servers}
