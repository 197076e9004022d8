"""A WebSocket for speech goes to a server of its model, and has a place there."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from tests.fakes.model_host import ModelHost
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import SWITCHING, UPGRADE, Message, Visit, bearer, get

pytestmark = pytest.mark.anyio

KEY, ADMIN = "sk-alice-0123456789", "admin-0123456789"


class Talking:
    """A server that has one model, and says over a WebSocket what it was asked for."""

    def __init__(self, model: str) -> None:
        self.host = ModelHost(models=(model,), probe=self._probe)

    async def _probe(self, visit: Visit, message: Message) -> bytes | None:
        target = message.start.split()[1]
        if not target.startswith("/v1/realtime"):
            return self.host.list_models(message)
        await visit.say(SWITCHING + f"{target}\n".encode())
        while data := await visit.reader.read(65_536):
            await visit.say(data)
        return None


@contextlib.asynccontextmanager
async def session(balancer: Running, model: str, *headers: bytes) -> AsyncIterator[str]:
    """Open a session, and give what the server was asked for, or the status of an error."""
    target = f"/v1/realtime?intent=x&model={model}".encode()
    async with balancer.client() as client:
        await client.say(get(target, *UPGRADE, *headers))
        head = await client.head()
        if head.status != 101:
            yield str(head.status)
            return
        yield (await client.reader.readline()).decode().strip()


async def test_a_session_goes_to_a_server_of_its_model_under_its_name_there() -> None:
    first, second = Talking("a"), Talking("org/B x")
    async with first.host.running(), second.host.running():
        servers: dict[str, ModelHost | Mapping[str, Any]] = {
            "A": first.host,
            "B": {"addr": f"http://127.0.0.1:{second.host.port}", "models": {"b": "org/B x"}},
        }
        async with balancing(servers, routed_paths="all") as balancer:
            async with session(balancer, "a") as a, session(balancer, "b") as b:
                told = a, b
                assert await balancer.backends("total_inflight") == [1, 1]
            await balancer.until(lambda: _is_idle(balancer))

    assert told == ("/v1/realtime?intent=x&model=a", "/v1/realtime?intent=x&model=org%2FB%20x")


async def test_a_session_waits_for_a_place() -> None:
    server = Talking("a")
    async with server.host.running():
        servers = {"A": server.host.limited(1)}
        async with balancing(servers, routed_paths="all") as balancer:
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(session(balancer, "a"))
                waiting = asyncio.create_task(_open(balancer))
                await balancer.until(lambda: _waits(balancer))
            assert (await waiting).startswith("/v1/realtime")


async def test_a_key_opens_sessions_of_its_models_alone() -> None:
    first, second = Talking("a"), Talking("b")
    keys = json.dumps({"alice": {"key": KEY, "models": ["a"]}})
    async with first.host.running(), second.host.running():
        servers = {"A": first.host, "B": second.host}
        async with balancing(
            servers, routed_paths="all", api_keys=keys, admin_key=ADMIN, ready=False
        ) as balancer:
            async with session(balancer, "a", bearer(KEY)) as allowed:
                pass
            async with session(balancer, "b", bearer(KEY)) as closed:
                pass

    assert allowed.startswith("/v1/realtime")
    assert closed == "403"


async def _open(balancer: Running) -> str:
    async with session(balancer, "a") as told:
        return told


async def _waits(balancer: Running) -> bool:
    snapshot = await balancer.snapshot()
    return bool(snapshot["queue"]["waiting"])


async def _is_idle(balancer: Running) -> bool:
    return await balancer.in_flight() == 0
