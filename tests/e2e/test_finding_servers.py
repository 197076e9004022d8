"""Model servers are found on a network, and by an agent on its own machine."""

import json
import socket
from pathlib import Path

import pytest

from tests.fakes.command import command
from tests.fakes.model_host import ModelHost
from tests.fakes.ports import free_port
from tests.fakes.process import balancing

pytestmark = pytest.mark.anyio

USUAL = (30000, 8081, 8000, 8080, 1234)


def usual_port() -> int:
    """Return a port on which model servers usually listen, and now nothing does."""
    for port in USUAL:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    pytest.skip("something listens on every usual port")


async def test_a_scan_prints_the_settings_of_what_it_finds(tmp_path: Path) -> None:
    host, port = ModelHost(models=("qwen3:8b",)), usual_port()
    async with host.running(port):
        status, output, _ = await command(tmp_path, "scan", "127.0.0.1/32")

    assert status == 0
    line = next(line for line in output.splitlines() if line.startswith("BALANCER_SERVERS="))
    servers = json.loads(line.removeprefix("BALANCER_SERVERS='").removesuffix("'"))
    assert f"http://127.0.0.1:{port}" in [server["addr"] for server in servers.values()]
    assert "qwen3:8b" in output


async def test_a_scan_prints_what_has_each_machine_join(tmp_path: Path) -> None:
    host = ModelHost()
    async with host.running(usual_port()):
        _, new, _ = await command(tmp_path, "scan", "--join", "127.0.0.1/32")
        (tmp_path / "BALANCER_JOIN_TOKEN").write_text("the-token-that-there-is")
        _, known, _ = await command(tmp_path, "scan", "--join", "127.0.0.1/32")

    token = next(line for line in new.splitlines() if line.startswith("BALANCER_JOIN_TOKEN="))
    assert f" {token} " in new
    assert " BALANCER_JOIN_TOKEN=the-token-that-there-is " in known


@pytest.mark.parametrize(
    ("network", "told"),
    [
        ("10.0.0.0/8", "1024 are asked at the most"),
        ("fd00::/64", "too many"),
        ("home", "is no network; for example"),
        ("127.0.0.99/32", "no model server was found"),
    ],
)
async def test_what_cannot_be_scanned_is_told(tmp_path: Path, network: str, told: str) -> None:
    status, _, errors = await command(tmp_path, "scan", network)
    assert status == 2
    assert told in errors


async def test_an_agent_tells_of_the_model_servers_on_the_usual_ports() -> None:
    host, port = ModelHost(models=("a", "b")), usual_port()
    token = "what-machines-show"
    async with (
        host.running(port),
        balancing({}, join_token=token, port=(at := free_port())) as balancer,
        balancing({}, join=f"http://127.0.0.1:{at}", join_token=token, join_name="pc"),
    ):

        async def is_there() -> bool:
            found = (await balancer.snapshot())["backends"]
            models = {backend["name"]: backend["models"] for backend in found}
            return models.get(f"pc:{port}") == ["a", "b"]

        await balancer.until(is_there)
