"""What is compiled: nothing in a working tree; in the image what requests pass through."""

import asyncio
import importlib.machinery
import os
import sys
import tomllib
from pathlib import Path
from types import FrameType

import pytest

import app
from app.downstream.server import Server, config
from app.main import create_app
from app.settings import validated
from tests.fakes.sockets import SSE, Visit, answering, chat, chunk, listening, ok

ROOT = Path(__file__).parents[1]
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]
HOOK = BUILD["targets"]["wheel"]["hooks"]["custom"]
PROGRAM = Path(app.__file__).parent
ASKED_FOR = ".compiled" in os.environ.get("PYTHONPATH", "")

ONCE = {"app/__init__.py", "app/main.py", "app/downstream/server.py"}
"""What runs beside a request: what built the program, and the server's look after its clients."""


def matching(patterns: list[str]) -> set[str]:
    """List the modules of the program that some patterns match."""
    found = (path for pattern in patterns for path in ROOT.glob(pattern.removeprefix("/")))
    return {path.relative_to(ROOT).as_posix() for path in found}


TO_COMPILE = matching(HOOK["include"]) - matching(HOOK["exclude"])


def test_each_pattern_of_the_build_matches_something() -> None:
    assert [x for x in (*HOOK["include"], *HOOK["exclude"]) if not matching([x])] == []


def test_what_is_tested_is_compiled_if_and_only_if_that_was_asked_for() -> None:
    endings = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    compiled = {
        f"app/{path.relative_to(PROGRAM).as_posix().partition('.')[0]}.py"
        for path in PROGRAM.rglob("*")
        if path.name.endswith(endings)
    }

    # A package's own file is compiled along with its first module.
    assert {name for name in compiled if not name.endswith("__init__.py")} == (
        TO_COMPILE if ASKED_FOR else set()
    )


@pytest.mark.anyio
@pytest.mark.skipif(ASKED_FOR, reason="compiled calls are not seen")
async def test_all_that_a_request_passes_through_is_compiled() -> None:
    async def streaming(visit: Visit) -> None:
        await visit.message()
        await visit.say(SSE, chunk(b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'))
        await visit.say(chunk(b"data: [DONE]\n\n"), chunk(b""))
        await answering(ok(b'{"usage": {"prompt_tokens": 1}}'))(visit)

    seen: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PROGRAM):
            seen.add(f"app/{path.relative_to(PROGRAM).as_posix()}")

    async with listening(streaming) as port:
        servers = {"A": {"addr": "http://127.0.0.1", "model_port": port, "health": "openai"}}
        settings = validated({"servers": servers, "models": {"m": ["A"]}})
        program = create_app(settings)
        server = Server(config(program.handler, None, lifespan="off", port=0), lambda: None)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0)
        address = server.servers[0].sockets[0].getsockname()
        visit = Visit(*await asyncio.open_connection(*address))
        sys.setprofile(note)
        try:
            for request in (chat(stream=True), chat()):
                await visit.say(request)
                assert (await visit.message()).status == 200
        finally:
            sys.setprofile(None)
        visit.writer.close()
        server.should_exit = True
        await serving

    assert seen
    assert seen - TO_COMPILE <= ONCE
