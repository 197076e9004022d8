"""Ollama's clients see the models of every server that has its API."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import ollama
import pytest

from tests.fakes.model_host import ModelHost, status
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import Message, Visit, bearer, get, ok, post

pytestmark = pytest.mark.anyio

ALICE, ADMIN = "sk-alice-0123456789", "admin-0123456789"


def ollama_host(version: str, *models: str, size: int = 1) -> ModelHost:
    """Make a server of Ollama's kind; `size` tells it from others."""
    facts = [{"name": name, "model": name, "size": size, "details": {}} for name in models]
    pages: dict[str, Mapping[str, object]] = {
        "/api/tags": {"models": facts},
        "/api/ps": {"models": facts[:1]},
        "/api/version": {"version": version},
    }

    async def probe(visit: Visit, message: Message) -> bytes | None:
        page = pages.get(message.start.split()[1])
        return host.list_models(message) if page is None else ok(json.dumps(page).encode())

    async def show(visit: Visit, message: Message) -> bytes | None:
        asked = json.loads(message.body)["model"]
        if asked not in models:
            return status(404)
        return ok(json.dumps({"details": {"family": asked}, "model_info": {}}).encode())

    host = ModelHost(show, models, probe=probe)
    return host


@asynccontextmanager
async def two_of_them(**settings: Any) -> AsyncIterator[Running]:
    """Run two servers of Ollama's kind, and one that is none."""
    first = ollama_host("0.9.1", "both:8b", "a:8b", size=1)
    second = ollama_host("0.13.0", "both:8b", "b:8b", size=2)
    other = ModelHost(models=("other",))
    async with first.running(), second.running(), other.running():
        hosts = {"A": first, "B": second, "C": other}
        async with balancing(hosts, routed_paths="all", **settings) as balancer:
            yield balancer


async def test_ollamas_own_client_sees_the_models_of_all() -> None:
    aliases = json.dumps({"gpt": "a:8b"})
    async with two_of_them(aliases=aliases) as balancer, AsyncExitStack() as stack:
        client = ollama.AsyncClient(f"http://127.0.0.1:{balancer.port}")
        stack.push_async_callback(client._client.aclose)
        listed = {model.model: model.size for model in (await client.list()).models}
        running = [model.model for model in (await client.ps()).models]
        shown = [(await client.show(name)).details for name in ("a:8b", "b:8b", "gpt")]
        with pytest.raises(ollama.ResponseError, match="not found"):
            await client.show("unknown")
        version = json.loads((await balancer.get("/api/version")).body)

    assert listed == {"a:8b": 1, "b:8b": 2, "both:8b": 1, "gpt": 1}
    assert running == ["both:8b"]
    assert [details and details.family for details in shown] == ["a:8b", "b:8b", "a:8b"]
    assert version == {"version": "0.9.1"}


async def test_only_models_that_a_key_allows_and_requests_reach_are_listed() -> None:
    keys = json.dumps({"alice": {"key": ALICE, "models": ["a.*", "both.*"]}})
    async with two_of_them(
        api_keys=keys, admin_key=ADMIN, models={"b:.*": ["A"], ".*": ["A", "B", "C"]}, ready=False
    ) as balancer:

        async def names(key: str) -> list[str]:
            page = json.loads((await balancer.ask(get(b"/api/tags", bearer(key)))).body)
            return [model["name"] for model in page["models"]]

        await balancer.until(lambda: _has(names(ADMIN), 2))
        listed = await names(ALICE), await names(ADMIN)
        closed = await balancer.ask(post(b'{"model":"b:8b"}', b"/api/show", bearer(ALICE)))
        stranger = await balancer.get("/api/tags")

    assert listed == (["a:8b", "both:8b"], ["a:8b", "both:8b"])
    assert (closed.status, stranger.status) == (404, 401)


async def test_where_ollamas_chat_is_not_routed_its_clients_see_the_fallback_alone() -> None:
    first, second = ollama_host("0.9.1", "a:8b"), ollama_host("0.9.2", "b:8b")
    async with first.running(), second.running(), balancing({"A": first, "B": second}) as balancer:
        page = json.loads((await balancer.get("/api/tags")).body)
    assert [model["name"] for model in page["models"]] == ["a:8b"]


async def _has(names: Any, count: int) -> bool:
    return len(await names) == count
