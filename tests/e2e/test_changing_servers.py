"""Servers are added, changed and removed over the admin API while the balancer serves."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.model_host import ModelHost, complete
from tests.fakes.ports import free_port
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import Message, Visit, bearer, chat, post

pytestmark = pytest.mark.anyio

ADMIN = "opensesame"
KEY = "sk-of-the-server"


async def order(
    balancer: Running, method: str, name: str, body: object = None, key: str = ADMIN
) -> Message:
    """Order something about a server."""
    text = b"" if body is None else json.dumps(body).encode()
    path = b"/llmhealth-servers" + (f"/{name}".encode() if name else b"")
    return await balancer.ask(method.encode() + post(text, path, bearer(key))[4:])


async def listed(balancer: Running) -> dict[str, Any]:
    servers: dict[str, Any] = json.loads((await order(balancer, "GET", "")).body)["servers"]
    return servers


async def server_of(balancer: Running, model: str = "m") -> str:
    response = await balancer.ask(chat(model))
    assert response.status == 200, response.body
    return response["x-balancer-server"]


@asynccontextmanager
async def administered(
    servers: Mapping[str, ModelHost | Mapping[str, object]], **settings: Any
) -> AsyncIterator[Running]:
    async with balancing(servers, admin_key=ADMIN, **settings) as balancer:
        yield balancer


async def test_a_server_is_added_changed_and_removed() -> None:
    first, second = ModelHost(), ModelHost(models=("new",))
    async with first.running(), second.running(), administered({"A": first}) as balancer:
        added = await order(balancer, "PUT", "B", second.limited(2) | {"api_key": KEY})
        assert added.status == 201, added.body
        assert await server_of(balancer, "new") == "B"
        assert second.seen[-1]["authorization"] == f"Bearer {KEY}"

        told = (await listed(balancer))["B"]
        assert told["origin"] == "admin"
        assert told["settings"]["request_max"] == 2
        assert KEY not in json.dumps(told)

        changed = await order(balancer, "PATCH", "B", {"request_max": 1})
        assert changed.status == 200
        assert await balancer.backends("request_max") == [None, 1]
        assert await server_of(balancer, "new") == "B"
        assert second.seen[-1]["authorization"] == f"Bearer {KEY}"

        assert (await order(balancer, "DELETE", "B")).status == 204
        assert await balancer.backends("name") == ["A"]
        assert await server_of(balancer, "new") == "A"


async def test_a_server_that_is_added_gets_nothing_but_the_models_that_it_lists() -> None:
    first, second = ModelHost(models=("a",)), ModelHost(models=("b",))
    async with (
        first.running(),
        second.running(),
        administered({"A": first}, models={"a|b|c": ["A"]}) as balancer,
    ):
        await order(balancer, "PUT", "B", second.limited(1))
        by_model = {model: await server_of(balancer, model) for model in "abc"}

    assert by_model == {"a": "A", "b": "B", "c": "A"}


async def test_what_is_wrong_is_told_and_changes_nothing(tmp_path: Path) -> None:
    host = ModelHost()
    async with host.running(), administered({"A": host}) as balancer:
        own = f"http://127.0.0.1:{balancer.port}"
        secret = str(tmp_path / "secret")
        refused = {
            "set in the settings": await order(balancer, "PUT", "A", host.limited(1)),
            "a mistake": await order(balancer, "PUT", "B", {"addr": "127.0.0.1"}),
            "the balancer itself": await order(balancer, "PUT", "B", {"addr": own}),
            "a file": await order(
                balancer, "PUT", "B", {"addr": "http://10.0.0.1", "api_key_file": secret}
            ),
            "no such server": await order(balancer, "PATCH", "B", {"request_max": 1}),
            "no server to remove": await order(balancer, "DELETE", "B"),
            "one of the settings to remove": await order(balancer, "DELETE", "A"),
            "no object": await order(balancer, "PUT", "B", [1]),
        }
        stranger = await order(balancer, "GET", "", key="wrong")
        assert await balancer.backends("name") == ["A"]

    assert {what: response.status for what, response in refused.items()} == {
        "set in the settings": 409,
        "a mistake": 422,
        "the balancer itself": 422,
        "a file": 422,
        "no such server": 404,
        "no server to remove": 404,
        "one of the settings to remove": 409,
        "no object": 400,
    }
    assert (
        b'must begin with http:// or https://; for example \\"addr\\"' in refused["a mistake"].body
    )
    assert stranger.status == 401


async def test_what_is_in_flight_at_a_server_that_is_removed_ends_as_it_would_have() -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async def hold(visit: Visit, message: Message) -> bytes | None:
        arrived.set()
        await go.wait()
        return await complete(visit, message)

    first, second = ModelHost(models=("a",)), ModelHost(hold, models=("b",))
    async with first.running(), second.running(), administered({"A": first}) as balancer:
        await order(balancer, "PUT", "B", second.limited(1))
        asking = asyncio.create_task(balancer.ask(chat("b")))
        await arrived.wait()
        assert (await order(balancer, "DELETE", "B")).status == 204
        go.set()
        assert (await asking).status == 200


def is_private(file: Path) -> bool:
    """Whether nobody else may read a file; Windows decides by its folder."""
    return sys.platform == "win32" or file.stat().st_mode & 0o077 == 0


async def test_what_was_added_is_kept_where_there_is_a_folder_for_it(tmp_path: Path) -> None:
    first, second = ModelHost(), ModelHost(models=("new",))
    async with first.running(), second.running():
        async with administered({"A": first}, state_dir=tmp_path) as balancer:
            await order(balancer, "PUT", "B", second.limited(3) | {"api_key": KEY})
        assert is_private(tmp_path / "servers.json")
        async with administered({"A": first}, state_dir=tmp_path) as balancer:
            assert await server_of(balancer, "new") == "B"
            assert await balancer.backends("request_max") == [None, 3]
            await order(balancer, "DELETE", "B")
        async with administered({"A": first}, state_dir=tmp_path) as balancer:
            assert await balancer.backends("name") == ["A"]


@pytest.mark.parametrize("torn", ['{"servers": {"B": {"addr": "ht', "[]", '{"servers": {"B": 1}}'])
async def test_a_file_of_added_servers_that_is_torn_is_refused(tmp_path: Path, torn: str) -> None:
    (tmp_path / "servers.json").write_text(torn)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "app",
        env={"BALANCER_STATE_DIR": str(tmp_path), "BALANCER_PORT": str(free_port())},
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await asyncio.wait_for(process.communicate(), 20)

    assert process.returncode == 2
    assert told.decode().strip() == (
        f"{tmp_path / 'servers.json'}: holds no servers as they were kept; mend it, or move it away"
    )
