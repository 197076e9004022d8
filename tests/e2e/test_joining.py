"""Machines join the balancer by themselves, and leave it."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.fakes.model_host import ModelHost, complete
from tests.fakes.ports import free_port
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import Message, Visit, bearer, chat, post

pytestmark = pytest.mark.anyio

TOKEN = "what-machines-show"


async def tell(
    balancer: Running, method: str, machine: str, body: object = None, token: str = TOKEN
) -> Message:
    """Tell the balancer what an agent would."""
    text = b"" if body is None else json.dumps(body).encode()
    path = f"/llmhealth-join/{machine}".encode()
    return await balancer.ask(method.encode() + post(text, path, bearer(token))[4:])


async def join(
    balancer: Running, machine: str, **servers: ModelHost | Mapping[str, Any]
) -> Message:
    written = {
        name: one.limited(1) if isinstance(one, ModelHost) else one for name, one in servers.items()
    }
    return await tell(balancer, "PUT", machine, {"servers": written})


@asynccontextmanager
async def waiting_for_machines(
    servers: Mapping[str, ModelHost | Mapping[str, Any]] | None = None, **settings: Any
) -> AsyncIterator[Running]:
    """Run a balancer that machines may join."""
    async with balancing(servers or {}, join_token=TOKEN, insecure=True, **settings) as balancer:
        yield balancer


@asynccontextmanager
async def agent(balancer: Running, **settings: Any) -> AsyncIterator[Running]:
    """Run an agent that joins a balancer."""
    url = f"http://127.0.0.1:{balancer.port}"
    async with balancing({}, join=url, join_token=TOKEN, join_name="pc", **settings) as one:
        yield one


async def names(balancer: Running) -> list[str]:
    return await balancer.backends("name")


async def server_of(balancer: Running, model: str = "m") -> str:
    response = await balancer.ask(chat(model))
    assert response.status == 200, response.body
    return response["x-balancer-server"]


async def test_a_machine_joins_with_its_servers_and_leaves_when_it_is_stopped() -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async def hold(visit: Visit, message: Message) -> bytes | None:
        arrived.set()
        await go.wait()
        return await complete(visit, message)

    host = ModelHost()
    async with host.running(), waiting_for_machines() as balancer:
        own = {"A": host.limited(3) | {"api_key": "sk-of-the-server"}}
        async with agent(balancer, join_servers=json.dumps(own), shutdown_timeout=20) as one:
            await balancer.until(lambda: _are(balancer, ["A"]))
            assert await server_of(balancer) == "A"
            assert host.seen[-1]["authorization"] == "Bearer sk-of-the-server"
            assert await balancer.backends("request_max") == [3]
            host.handle = hold
            asking = asyncio.create_task(balancer.ask(chat()))
            await arrived.wait()
            one.process.terminate()
            await balancer.until(lambda: _drain(balancer))
            assert one.process.returncode is None
            joined = one.events("join.joined")
            go.set()
        assert (await asking).status == 200
        assert await names(balancer) == []
    assert [line["servers"] for line in joined] == [["A"]]


async def test_a_balancer_that_starts_after_the_machine_knows_it_soon() -> None:
    host, port = ModelHost(), free_port()
    async with host.running():
        own = json.dumps({"A": host.limited(1)})
        there: dict[str, Any] = {"port": port, "insecure": True, "join_token": TOKEN}
        url = f"http://127.0.0.1:{port}"
        async with balancing(
            {}, join=url, join_token=TOKEN, join_name="pc", join_servers=own
        ) as one:
            await one.until(lambda: one.events("join.failed"))
            async with balancing({}, **there) as balancer:
                await balancer.until(lambda: _are(balancer, ["A"]))


async def test_a_machine_finds_the_balancer_that_announces_itself() -> None:
    host = ModelHost()
    async with host.running(), waiting_for_machines(host="0.0.0.0") as balancer:
        own = {"A": host.limited(1)}
        async with balancing(
            {}, join="auto", join_token=TOKEN, join_name="pc", join_servers=json.dumps(own)
        ):
            await balancer.until(lambda: _are(balancer, ["A"]))


async def test_a_machine_has_no_say_without_the_token_nor_where_there_is_none() -> None:
    host = ModelHost()
    async with host.running():
        async with waiting_for_machines() as balancer:
            wrong = await tell(balancer, "PUT", "pc", {"servers": {}}, token="wrong")
            leaving = await tell(balancer, "DELETE", "pc", token="wrong")
            assert await names(balancer) == []
        async with balancing({"A": host}) as balancer:
            shut = await tell(balancer, "PUT", "pc", {"servers": {}})

    assert (wrong.status, leaving.status, shut.status) == (401, 401, 403)
    assert b"BALANCER_JOIN_TOKEN" in shut.body


async def test_servers_of_the_settings_win_over_those_that_join() -> None:
    first, second = ModelHost(), ModelHost(models=("other",))
    async with first.running(), second.running(), waiting_for_machines({"A": first}) as balancer:
        answer = await join(
            balancer,
            "pc",
            A=second,  # has the name
            B={"addr": f"http://127.0.0.1:{first.port}"},  # has the address
            C=second,
        )
        assert json.loads(answer.body)["servers"].keys() == {"C"}
        assert await names(balancer) == ["A", "C"]
        assert await server_of(balancer) == "A"
        await tell(balancer, "DELETE", "pc")
        assert await balancer.backends("status") == ["idle"]


async def test_what_an_agent_tells_wrong_is_named_and_changes_nothing() -> None:
    host = ModelHost()
    async with host.running(), waiting_for_machines() as balancer:
        await join(balancer, "pc", A=host)
        mistake = await join(balancer, "pc", A={"addr": "127.0.0.1"}, B=host)
        taken = await join(balancer, "other", A=host)
        nothing = await tell(balancer, "PUT", "pc", {"servers": 1})
        assert await names(balancer) == ["A"]

    assert (mistake.status, taken.status, nothing.status) == (422, 409, 422)
    assert b"A.addr: must begin with http://" in mistake.body


async def test_the_agents_of_machines_that_joined_are_found_by_prometheus() -> None:
    host, other = ModelHost(), ModelHost(models=("other",))
    async with host.running(), other.running(), waiting_for_machines() as balancer:
        both = {"A": host.limited(1), "B": other.limited(1)}
        servers = {name: told | {"health_port": 18000} for name, told in both.items()}
        await tell(balancer, "PUT", "pc", {"address": "127.0.0.9", "servers": servers})
        targets = json.loads((await balancer.get("/llmhealth-targets")).body)

    assert targets == [
        {"targets": ["127.0.0.9:18000"], "labels": {"machine": "A", "__scheme__": "http"}}
    ]


async def _are(balancer: Running, wanted: list[str]) -> bool:
    return await names(balancer) == wanted


async def _drain(balancer: Running) -> bool:
    return await balancer.backends("draining") == [True]
