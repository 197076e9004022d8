"""What operators ask and order, over the real routes."""

import functools
import json
import re
from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.apis.rewrites import Rewrites
from app.control import admin
from app.control.access import Access
from app.control.explain import explain
from app.control.login import LoginPage
from app.control.session import Sessions
from app.downstream.asgi import App
from app.downstream.forwarded import Origin
from app.keys.key_ring import KeyRing
from app.keys.wrong_keys import WrongKeys
from app.proxy.model_request import ModelRequest, Reading, username_finder
from app.routing.balancer import Balancer, Refusal
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.observations import ModelsSeen, SelfReport
from tests.fakes.clock import Clock
from tests.fakes.kinds import LLAMA_CPP

pytestmark = pytest.mark.anyio

KEY = {"authorization": "Bearer opensesame"}
LONG = "All work and no play. " * 40
CHAT = {"model": "m", "messages": [{"role": "user", "content": LONG}]}


def _with_state(app: App) -> App:
    async def serve(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "state": {}}, receive, send)

    return serve


class House:
    """A balancer of two servers, and a client of its routes."""

    def __init__(self, admin_key: str | None = "opensesame") -> None:
        servers = [Server(name, f"http://{name}", request_max=1) for name in ("PC1", "PC/2")]
        self.balancer = Balancer(Fleet.of(servers, {"m.*": ["PC1", "PC/2"]}), clock=Clock())
        reading = Reading(username_finder(re.compile("name is (.+)")), Rewrites())
        read = functools.partial(ModelRequest, reading)
        self.read = read
        routes = admin.routes(
            explain=lambda *request: explain(self.balancer, read(*request).ask, 1000.0),
            drain=lambda server, on: self.balancer.drain(server, on=on),
            servers=lambda: self.balancer.fleet.servers,
            max_body_bytes=10_000,
            reload=self.reload,
        )
        control = FastAPI()
        control.include_router(routes)
        access = Access(
            KeyRing([], admin_key),
            Sessions(admin_key),
            Origin([ip_network("127.0.0.1")]),
            WrongKeys(lambda *_: None),
            LoginPage(),
            {},
        )
        transport = httpx.ASGITransport(_with_state(access.guarded(control)))
        self.client = httpx.AsyncClient(transport=transport, base_url="http://balancer")

    async def reload(self) -> dict[str, object]:
        return {"successful": False, "mistakes": ["BALANCER_PORT: must be a number"]}

    def ask(self) -> Ask:
        return self.read("/v1/chat/completions", json.dumps(CHAT).encode(), "10.0.0.1").ask

    async def explained(self, body: object = CHAT) -> dict[str, Any]:
        answer = await self.client.post("/llmhealth-explain", json=body)
        assert answer.status_code == 200
        told: dict[str, Any] = answer.json()
        return told


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made = House()
    async with made.client:
        yield made


async def test_an_explanation_tells_where_a_request_would_go_and_sends_nothing(
    house: House,
) -> None:
    told = await house.explained()

    assert told["outcome"] == "goes"
    assert told["choice"] == {
        "server": "PC1",
        "instance": "m",
        "reason": "empty_slot",
        "slot": None,
    }
    assert [one["server"] for one in told["servers"]] == ["PC1", "PC/2"]
    assert not any(s.ledger.total for s in house.balancer.backends())


async def test_an_explanation_is_for_the_client_that_a_trusted_proxy_names(house: House) -> None:
    short = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    forwarded = {"x-forwarded-for": "10.9.9.9"}
    answer = await house.client.post("/llmhealth-explain", json=short, headers=forwarded)

    assert answer.json()["client"] == "10.9.9.9"


async def test_an_explanation_names_what_keeps_a_server_from_a_request(house: House) -> None:
    house.balancer.observe(ModelsSeen("PC1", ["other"]))
    house.balancer.observe(SelfReport("PC/2", LLAMA_CPP, loading=True))

    told = await house.explained()

    assert told["outcome"] == "waits"
    first, second = told["servers"]
    assert (first["has_model"], first["takes_requests"]) == (False, False)
    assert (second["status"], second["takes_requests"]) == ("loading", False)


async def test_an_explanation_tells_what_a_cache_holds_and_which_slot_it_is(house: House) -> None:
    house.balancer.observe(SelfReport("PC/2", LLAMA_CPP, slots=1, busy_slots=frozenset()))
    with house.balancer.place(house.ask()):  # type: ignore[union-attr]
        lease = house.balancer.place(house.ask())
        assert not isinstance(lease, Refusal)
        lease.release()
    longer = {**CHAT, "messages": [*CHAT["messages"], {"role": "assistant", "content": "Hm."}]}
    house.balancer.drain("PC1", on=True)

    told = await house.explained(longer)

    assert told["choice"]["reason"] == "cached_prompt"
    assert told["choice"]["slot"] == 0
    assert told["servers"][1]["instances"][0]["expected_share"] > 0.9


async def test_without_servers_a_request_is_refused() -> None:
    empty = House()
    empty.balancer.fleet = Fleet.of([])

    assert (await empty.explained())["outcome"] == "is refused"


@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b"[]", 400), (b"x" * 10_001, 413)])
async def test_what_cannot_be_explained_is_a_clear_error(
    house: House, body: bytes, status: int
) -> None:
    answer = await house.client.post("/llmhealth-explain", content=body)

    assert answer.status_code == answer.json()["error"]["code"] == status


async def test_a_drained_server_gets_no_new_requests_until_it_is_taken_back(house: House) -> None:
    assert (await house.client.post("/llmhealth-drain/PC/2", headers=KEY)).json() == {
        "server": "PC/2",
        "draining": True,
    }
    with house.balancer.place(house.ask()):  # type: ignore[union-attr]
        assert house.balancer.place(house.ask()) is Refusal.FULL

        await house.client.delete("/llmhealth-drain/PC/2", headers=KEY)

        assert house.balancer.place(house.ask()).server == "PC/2"  # type: ignore[union-attr]


async def test_draining_needs_the_key(house: House) -> None:
    for headers in ({}, {"authorization": "Bearer ほげ".encode()}):
        answer = await house.client.post("/llmhealth-drain/PC1", headers=headers)  # type: ignore[arg-type]
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    assert not house.balancer.backend("PC1").draining


async def test_without_a_key_nobody_may_drain() -> None:
    answer = await House(admin_key=None).client.post("/llmhealth-drain/PC1", headers=KEY)

    assert answer.status_code == 403
    assert "BALANCER_ADMIN_KEY" in answer.json()["error"]["message"]


async def test_an_unknown_server_is_named_beside_those_that_there_are(house: House) -> None:
    answer = await house.client.post("/llmhealth-drain/PC9", headers=KEY)

    assert answer.status_code == 404
    assert "PC1, PC/2" in answer.json()["error"]["message"]
