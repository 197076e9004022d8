"""What operators see of single requests: those under way, and the last that have ended."""

import asyncio
import json
from typing import Any

import pytest

from tests.fakes.model_host import ModelHost, complete
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import SSE, Message, Visit, bearer, chat, get

pytestmark = pytest.mark.anyio

ADMIN = "an-admin-key-that-is-long"
REQUESTS = b"/llmhealth-requests"


async def listed(balancer: Running) -> dict[str, list[dict[str, Any]]]:
    response = await balancer.ask(get(REQUESTS, bearer(ADMIN)))
    assert response.status == 200
    found: dict[str, list[dict[str, Any]]] = json.loads(response.body)
    return found


async def cancel(balancer: Running, name: str, *headers: bytes) -> int:
    path = REQUESTS + f"/{name}".encode()
    return (await balancer.ask(get(path, *headers, method=b"DELETE"))).status


def held() -> tuple[ModelHost, asyncio.Event]:
    """Make a server whose response begins, and ends when the event is set."""
    go = asyncio.Event()

    async def wait(visit: Visit, message: Message) -> bytes | None:
        await visit.say(SSE)
        await go.wait()
        return None

    return ModelHost(wait), go


async def begun(balancer: Running, client: Visit, host: ModelHost) -> dict[str, Any]:
    """Ask for a stream; return how it is listed once the server is at it."""
    await client.say(chat(stream=True))
    await balancer.until(lambda: host.active)
    [one] = (await listed(balancer))["under_way"]
    return one


async def test_a_request_that_has_ended_is_listed_with_what_it_took() -> None:
    host = ModelHost(complete)
    async with host.running(), balancing({"A": host}, admin_key=ADMIN) as balancer:
        await balancer.ask(chat(client="alice"))
        [one] = (await listed(balancer))["ended"]

    assert (one["model"], one["server"], one["outcome"], one["status"]) == (
        "m",
        "A",
        "success",
        200,
    )
    assert one["tokens"] == {"prompt": 5, "cached": None, "completion": 1, "estimated": False}
    assert one["seconds"] > 0
    assert "hello" not in json.dumps(one)


async def test_a_request_that_failed_names_the_servers_that_were_tried() -> None:
    host = ModelHost()
    async with balancing({"A": {"addr": "http://127.0.0.1:1"}}, ready=False) as balancer:
        await balancer.ask(chat())
        [one] = (await listed(balancer))["ended"]

    assert one["failures"] == [{"server": "A", "fault": "connect"}]
    assert one["error"].startswith("server A: it refuses connections")
    assert host.seen == []


async def test_a_request_under_way_is_listed_until_it_is_cancelled() -> None:
    host, go = held()
    async with host.running(), balancing({"A": host}, admin_key=ADMIN) as balancer:
        async with balancer.client() as client:
            one = await begun(balancer, client, host)
            assert (one["server"], one["state"]) in (("A", "sent"), ("A", "responding"))

            assert await cancel(balancer, one["id"], bearer(ADMIN)) == 200
            rest = await client.reader.read()

        found = await listed(balancer)
        go.set()
        await balancer.until(lambda: balancer.events("admin.cancel"))

    assert b"the administrator has cancelled this request" in rest
    assert found["under_way"] == []
    assert found["ended"][0]["error"] == "the administrator has cancelled this request"


async def test_a_request_is_cancelled_by_the_admin_key_alone() -> None:
    host, go = held()
    async with host.running(), balancing({"A": host}, admin_key=ADMIN) as balancer:
        async with balancer.client() as client:
            one = await begun(balancer, client, host)
            assert await cancel(balancer, one["id"]) == 401
            assert await cancel(balancer, "unknown", bearer(ADMIN)) == 404
            assert len((await listed(balancer))["under_way"]) == 1
            go.set()
