"""Models are loaded and unloaded by administrators, in the words of each kind of server."""

import json
from typing import Any

import pytest

from tests.fakes.model_host import ModelHost, status
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import Message, Visit, bearer, get, ok

pytestmark = pytest.mark.anyio

ADMIN = "an-admin-key-that-is-long"

OLLAMA = ("/api/ps", {"models": [{"name": "b:8b", "model": "b:8b"}]})
LLAMA_SWAP = ("/running", {"running": [{"model": "b:8b", "state": "ready"}]})
ROUTER = ("/props", {"role": "router"})
ROUTED = {"data": [{"id": "b:8b", "status": {"value": "loaded"}}]}

ORDERS = [
    (OLLAMA, "POST", "POST /api/generate", {"model": "a/x:8b"}),
    (OLLAMA, "DELETE", "POST /api/generate", {"model": "a/x:8b", "keep_alive": 0}),
    (LLAMA_SWAP, "POST", "GET /upstream/a%2Fx%3A8b/health", None),
    (LLAMA_SWAP, "DELETE", "POST /api/models/unload/a%2Fx%3A8b", None),
    (ROUTER, "POST", "POST /models/load", {"model": "a/x:8b"}),
    (ROUTER, "DELETE", "POST /models/unload", {"model": "a/x:8b"}),
]


def server(page: tuple[str, object], seen: list[Message]) -> ModelHost:
    """Make a server of the kind that has a page, and note what it is told."""
    host = ModelHost(models=["a/x:8b", "b:8b"])

    async def show(visit: Visit, message: Message) -> bytes | None:
        path = message.start.split()[1]
        if path == page[0]:
            return ok(json.dumps(page[1]).encode())
        if path == "/models" and page is ROUTER:
            return ok(json.dumps(ROUTED).encode())
        if path.startswith("/upstream/"):
            seen.append(message)
            return ok()
        return host.list_models(message) if path == "/v1/models" else status(404)

    async def take(visit: Visit, message: Message) -> bytes | None:
        seen.append(message)
        return ok()

    host.probe, host.handle = show, take
    return host


async def order(balancer: Running, method: str, model: str, *headers: bytes) -> Message:
    path = f"/llmhealth-models/A?model={model}".encode()
    return await balancer.ask(get(path, *headers, method=method.encode()))


@pytest.mark.parametrize(("page", "method", "line", "body"), ORDERS)
async def test_a_server_is_told_in_its_own_words(
    page: tuple[str, object], method: str, line: str, body: dict[str, Any] | None
) -> None:
    seen: list[Message] = []
    host = server(page, seen)
    async with host.running(), balancing({"A": host}, admin_key=ADMIN) as balancer:

        async def knows() -> bool:
            return (await balancer.snapshot())["backends"][0]["orders_models"] is True

        await balancer.until(knows)
        response = await order(balancer, method, "a%2Fx:8b", bearer(ADMIN))
        await balancer.until(lambda: seen)
        await balancer.until(lambda: balancer.events("model.done"))

    assert response.status == 202
    assert seen[0].start.startswith(line + " ")
    assert (json.loads(seen[0].body) if seen[0].body else None) == body


async def test_orders_that_nobody_can_carry_out_are_refused() -> None:
    seen: list[Message] = []
    host, plain = server(OLLAMA, seen), ModelHost()
    servers = {"A": host, "B": plain}
    async with host.running(), plain.running(), balancing(servers, admin_key=ADMIN) as balancer:

        async def knows() -> bool:
            return (await balancer.snapshot())["backends"][0]["orders_models"] is True

        await balancer.until(knows)
        statuses = [
            (await order(balancer, "POST", "b:8b")).status,
            (await order(balancer, "POST", "unknown", bearer(ADMIN))).status,
        ]
        for name in ("B", "C"):
            path = f"/llmhealth-models/{name}?model=m".encode()
            found = await balancer.ask(get(path, bearer(ADMIN), method=b"POST"))
            statuses.append(found.status)

    assert statuses == [401, 404, 409, 404]
    assert seen == []


async def test_a_model_is_pinned_by_an_administrator_until_it_is_not() -> None:
    pinned = []
    host = server(OLLAMA, [])
    async with host.running(), balancing({"A": host}, admin_key=ADMIN) as balancer:

        async def knows() -> bool:
            return await balancer.backends("loaded") == [["b:8b"]]

        await balancer.until(knows)
        for method, key in (("POST", b""), ("POST", bearer(ADMIN)), ("DELETE", bearer(ADMIN))):
            path = b"/llmhealth-pinned/A?model=b:8b"
            headers = [key] if key else []
            await balancer.ask(get(path, *headers, method=method.encode()))
            pinned += await balancer.backends("pinned_models")
        unknown = get(b"/llmhealth-pinned/A?model=no", bearer(ADMIN), method=b"POST")
        assert (await balancer.ask(unknown)).status == 404

    assert pinned == [[], ["b:8b"], []]


async def test_a_model_that_does_not_load_is_logged() -> None:
    host = server(OLLAMA, [])

    async def fail(visit: Visit, message: Message) -> bytes | None:
        return status(500)

    host.handle = fail
    async with host.running(), balancing({"A": host}, admin_key=ADMIN) as balancer:

        async def knows() -> bool:
            return (await balancer.snapshot())["backends"][0]["orders_models"] is True

        await balancer.until(knows)
        await order(balancer, "POST", "b:8b", bearer(ADMIN))
        await balancer.until(lambda: balancer.events("model.refused"))
        [line] = balancer.events("model.refused")

    assert (line["server"], line["error"]) == ("A", "it responds with 500")
