"""What whoever starts the balancer reads: where it is, what is there, and what is wrong."""

import json
import socket
from pathlib import Path

import pytest

from tests.fakes.command import command
from tests.fakes.model_host import ModelHost
from tests.fakes.ports import free_port
from tests.fakes.process import balancing
from tests.fakes.sockets import post

pytestmark = pytest.mark.anyio

ADMIN = b"authorization: Bearer an-admin-key-that-is-long"


async def test_the_start_tells_the_version_the_page_and_each_server(tmp_path: Path) -> None:
    _, version, _ = await command(tmp_path, "--version")
    host = ModelHost(models=["qwen3:8b"])
    async with host.running(), balancing({"A": host}) as balancer:
        await balancer.until(lambda: balancer.events("server.up"))
        [listening], [up] = balancer.events("balancer.listening"), balancer.events("server.up")

    assert version == f"llama-balancer {listening['version']}\n"
    assert listening["page"] == f"http://127.0.0.1:{balancer.port}/llmhealth-monitor"
    assert listening["servers"] == ["A"]
    assert (up["server"], up["models"], up["level"]) == ("A", ["qwen3:8b"], "info")
    assert up["address"] == f"http://127.0.0.1:{host.port}"


async def test_a_server_that_is_down_is_logged_with_its_address_and_what_went_wrong() -> None:
    port = free_port()
    down = {"addr": f"http://127.0.0.1:{port}"}
    async with balancing({"A": down}, ready=False) as balancer:
        await balancer.until(lambda: balancer.events("server.down"))
        [line] = balancer.events("server.down")

    assert (line["server"], line["reason"]) == ("A", "refused")
    assert line["error"] == f"http://127.0.0.1:{port}/v1/models: it refuses connections"


async def test_a_port_that_is_taken_names_the_setting_that_has_another(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = {"BALANCER_PORT": str(port), "BALANCER_LOG_FORMAT": "json"}
        code, _, errors = await command(tmp_path, settings=settings)

    [line] = [json.loads(line) for line in errors.splitlines()]
    assert code == 1
    assert (line["event"], line["level"]) == ("balancer.cannot_listen", "error")
    assert line["address"] == f"127.0.0.1:{port}"
    assert "BALANCER_PORT" in line["hint"]


async def test_drains_and_wrong_admin_keys_are_logged() -> None:
    host = ModelHost()
    async with (
        host.running(),
        balancing({"A": host}, admin_key="an-admin-key-that-is-long") as balancer,
    ):
        wrong = b"authorization: Bearer wrong"
        refused = await balancer.ask(post(b"", b"/llmhealth-drain/A", wrong))
        drained = await balancer.ask(post(b"", b"/llmhealth-drain/A", ADMIN))
        await balancer.until(lambda: balancer.events("key.wrong"))
        await balancer.until(lambda: balancer.events("server.draining"))
        [key], [drain] = balancer.events("key.wrong"), balancer.events("server.draining")

    assert (refused.status, drained.status) == (401, 200)
    assert (key["address"], drain["server"]) == ("127.0.0.1", "A")
