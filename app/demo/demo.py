"""The balancer with two modelled servers on this machine, and a trickle of traffic."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import httpx

from app.demo.traffic import QUESTIONS, USERS, ask, chat

HOST = "127.0.0.1"
MODEL = "qwen3:8b"
SERVERS = {"PC1": 30, "PC2": 20}
"""What stands behind the balancer, and how many tokens per second each writes."""
SLOTS = 2
"""Of each server, which the balancer finds out by asking."""
READY_SECONDS = 30
STOP_SECONDS = 3
ROOT = Path(__file__).parents[2]

WELCOME = """
{url} balances two modelled servers, PC1 and PC2. Try:

  the monitor   {url}/llmhealth-monitor

  curl          curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' \
-d '{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'

  Python        from openai import OpenAI
                client = OpenAI(base_url="{url}/v1", api_key="none")
                question = {{"role": "user", "content": "Hello"}}
                answer = client.chat.completions.create(model="{model}", messages=[question])
                print(answer.choices[0].message.content)
"""


class DemoFailed(Exception):
    """The demo cannot go on; the message says why."""


class Processes:
    """The processes that the demo starts, and stops when it ends."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, name: str, *arguments: str, cwd: Path, env: dict[str, str]) -> None:
        """Run a module of Python's, out of reach of the terminal's Ctrl-C: that is for us."""
        apart: dict[str, Any]
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        else:
            apart = {"process_group": 0}
        self._running[name] = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *arguments, cwd=cwd, env=env, stdin=subprocess.DEVNULL, **apart
        )

    async def serve(self, work: Coroutine[Any, Any, None]) -> None:
        """Do some work that needs all of them.

        Raises:
            DemoFailed: a process ended.
        """
        working = asyncio.ensure_future(work)
        ends = {asyncio.ensure_future(p.wait()): name for name, p in self._running.items()}
        try:
            await asyncio.wait((working, *ends), return_when=asyncio.FIRST_COMPLETED)
            for end, name in ends.items():
                if end.done():
                    raise DemoFailed(f"{name} ended with status {end.result()}")
            working.result()
        finally:
            for task in (working, *ends):
                task.cancel()
            await asyncio.gather(working, *ends, return_exceptions=True)

    async def stop(self) -> None:
        """Ask all to end, the balancer first: it need not see its servers go. Then end them."""
        running = [p for p in reversed(self._running.values()) if p.returncode is None]
        try:
            async with asyncio.timeout(STOP_SECONDS):
                for process in running:
                    process.terminate()
                    await process.wait()
        except TimeoutError:
            pass
        finally:
            for process in running:
                if process.returncode is None:
                    process.kill()


async def demo(port: int, *, once: bool) -> None:
    """Start everything, show it, and stay until cancelled.

    Raises:
        DemoFailed: the port is taken, a process ended, or no answer came.
    """
    if sys.platform != "win32":
        task = asyncio.current_task()
        assert task is not None
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(name, task.cancel)
    _require_free(port)
    processes = Processes()
    url = f"http://{HOST}:{port}"
    # A proxy that the environment names must not come between.
    with tempfile.TemporaryDirectory() as empty:
        try:
            async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
                say("Starting two modelled servers and the balancer ...")
                await _start(processes, port, Path(empty))
                await processes.serve(_show(client, url, once=once))
        finally:
            await processes.stop()


async def _start(processes: Processes, port: int, empty: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("BALANCER_")}
    servers = {}
    for (name, decode), own in zip(SERVERS.items(), _free_ports(len(SERVERS)), strict=True):
        options = {
            "name": name,
            "port": own,
            "models": MODEL,
            "slots": SLOTS,
            "prefill": 20 * decode,
            "decode": decode,
        }
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        await processes.start(name, "app.demo.model_server", *words, cwd=ROOT, env=env)
        servers[name] = {
            "addr": f"http://{HOST}",
            "health_port": own,
            "model_port": own,
        }
    settings = {
        "PYTHONPATH": str(ROOT),
        "BALANCER_HOST": HOST,
        "BALANCER_PORT": str(port),
        "BALANCER_SERVERS": json.dumps(servers),
        "BALANCER_MODELS": json.dumps({f"{MODEL}.*": list(servers)}),
        "BALANCER_HOME": "monitor",
        "BALANCER_LOG_LEVEL": "warning",
    }
    # In an empty directory, where no .env adds settings of its own.
    await processes.start("the balancer", "app", cwd=empty, env=env | settings)


async def _show(client: httpx.AsyncClient, url: str, *, once: bool) -> None:
    await _until_ready(client)
    say(WELCOME.format(url=url, model=MODEL))
    say(f"  {QUESTIONS[0]}\n  ", end="")
    try:
        async for piece in ask(client, MODEL, [{"role": "user", "content": QUESTIONS[0]}]):
            say(piece, end="")
    except httpx.HTTPError as error:
        raise DemoFailed(f"no answer came through the balancer: {error!r}") from None
    say("\n")
    if not once:
        say(f"{', '.join(USERS)} go on asking now and then. Ctrl-C ends it all.")
        await asyncio.gather(*(chat(client, MODEL, user) for user in USERS))


async def _until_ready(client: httpx.AsyncClient) -> None:
    try:
        async with asyncio.timeout(READY_SECONDS):
            while not await _offers_the_model(client):
                await asyncio.sleep(0.1)
    except TimeoutError:
        message = f"the balancer did not offer {MODEL} within {READY_SECONDS} s"
        raise DemoFailed(message) from None


async def _offers_the_model(client: httpx.AsyncClient) -> bool:
    try:
        answer = await client.get("/v1/models")
        return MODEL in [model["id"] for model in answer.raise_for_status().json()["data"]]
    except httpx.HTTPError:
        return False


def say(text: str, end: str = "\n") -> None:
    """Print at once, whether to a terminal or not."""
    print(text, end=end, flush=True)


def _require_free(port: int) -> None:
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        hint = "choose another with `llama-balancer demo --port NUMBER`"
        raise DemoFailed(f"port {port} cannot be used ({error.strerror}); {hint}") from None


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def run(port: int, *, once: bool) -> int:
    """Run the demo until Ctrl-C, or `once`; return the exit status, which is 1 where it failed."""
    try:
        asyncio.run(demo(port, once=once))
    except DemoFailed as error:
        print(f"The demo failed: {error}.", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("\nStopped.")
    return 0
