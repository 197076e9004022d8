"""The first five minutes: settings are written, and servers are tried before they are needed."""

import json
from pathlib import Path

import pytest

from tests.fakes.command import command
from tests.fakes.llama_cpp import AVAILABLE, CONTEXT, llama_cpp, write_tiny_model
from tests.fakes.model_host import ModelHost, status
from tests.fakes.ports import free_port
from tests.fakes.sockets import Message, Visit

pytestmark = pytest.mark.anyio


def one_server(**about: object) -> dict[str, str]:
    return {"BALANCER_SERVERS": json.dumps({"PC1": about})}


async def connect(folder: Path, **about: object) -> tuple[int | None, str]:
    """Try a server; return the exit status, and what is said of it."""
    code, output, _ = await command(folder, "check", "--connect", settings=one_server(**about))
    return code, output.split("The servers themselves:\n")[1]


@pytest.mark.skipif(not AVAILABLE, reason="xllamacpp is not installed")
async def test_check_tells_what_a_real_server_is_and_has(tmp_path: Path) -> None:
    model, port = tmp_path / "tiny.gguf", free_port()
    write_tiny_model(model)
    with llama_cpp(model, port, slots=2):
        code, said = await connect(tmp_path, addr=f"http://127.0.0.1:{port}")

    assert code == 0
    assert f"PC1  llamacpp, 2 slots, {CONTEXT} tokens a prompt, " in said
    assert "tiny" in said


async def test_check_tells_which_models_a_server_lists(tmp_path: Path) -> None:
    host = ModelHost(models=[f"m{number}" for number in range(14)])
    async with host.running() as port:
        code, said = await connect(tmp_path, addr=f"http://127.0.0.1:{port}")

    assert code == 0
    assert "m0, " in said
    assert "and 2 more" in said


async def test_check_says_how_a_server_that_refuses_may_be_reached(tmp_path: Path) -> None:
    code, said = await connect(tmp_path, addr=f"http://127.0.0.1:{free_port()}")

    assert code == 1
    assert "it refuses connections. Does the server run" in said


async def test_check_says_that_a_server_wants_a_key(tmp_path: Path) -> None:
    async def refuse(visit: Visit, message: Message) -> bytes | None:
        return status(401)

    async with ModelHost(probe=refuse).running() as port:
        code, said = await connect(tmp_path, addr=f"http://127.0.0.1:{port}")

    assert code == 1
    assert 'it wants a key (401). Give the server its "api_key".' in said


async def test_check_says_that_an_agent_is_missing(tmp_path: Path) -> None:
    async with ModelHost().running() as port:
        there = f"http://127.0.0.1:{port}"
        code, said = await connect(tmp_path, addr=there, health_port=free_port())

    assert code == 1
    assert "/llmhealth: it refuses connections. Does an agent run there" in said


async def test_init_writes_settings_from_three_answers(tmp_path: Path) -> None:
    async with ModelHost().running() as port:
        answers = f"127.0.0.1:{port}\ny\ny\n"
        code, said, _ = await command(tmp_path, "init", typed=answers)
        checked, output, _ = await command(tmp_path, "check", "--connect")

    assert (code, checked) == (0, 0)
    assert "which is printed this once: sk-" in said
    assert "Listens on 0.0.0.0:18000" in output
    assert "Clients need a key; there are those of everybody" in output
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0


async def test_init_does_not_touch_settings_that_there_are(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BALANCER_PORT=18001\n")
    code, _, errors = await command(tmp_path, "init", "--scan")

    assert code == 2
    assert ".env is there already" in errors
    assert (tmp_path / ".env").read_text() == "BALANCER_PORT=18001\n"


async def test_init_says_what_asks_nothing_where_nobody_answers(tmp_path: Path) -> None:
    code, _, errors = await command(tmp_path, "init")

    assert code == 2
    assert "`llama-balancer init --scan` asks nothing" in errors
    assert not (tmp_path / ".env").exists()


async def test_init_refuses_an_address_that_is_none(tmp_path: Path) -> None:
    code, _, errors = await command(tmp_path, "init", typed="ftp://pc1:21\n\n\n")

    assert code == 2
    assert "must begin with http:// or https://" in errors
    assert not (tmp_path / ".env").exists()
