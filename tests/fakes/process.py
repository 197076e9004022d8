"""The balancer as users run it, for tests in an event loop that serves its model servers, too."""

import asyncio
import contextlib
import json
import os
import signal
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import IO, Any

from tests.fakes.model_host import ModelHost
from tests.fakes.ports import free_port
from tests.fakes.sockets import Message, Visit, get

PATIENCE = 20.0
"""Seconds after which a process that does not come to a state is given up."""


class Running:
    """A balancer that runs, and what can be asked of it from outside."""

    def __init__(
        self,
        port: int,
        process: asyncio.subprocess.Process,
        log: IO[bytes],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.port = port
        self.tls = tls
        self.process = process
        self._log = log

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Visit]:
        """Open a connection."""
        name = None if self.tls is None else "localhost"
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, limit=1 << 24, ssl=self.tls, server_hostname=name
        )
        try:
            yield Visit(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def ask(self, request: bytes) -> Message:
        """Send one request and read its response.

        Raises:
            IncompleteReadError: the connection was closed before the response's end.
        """
        async with self.client() as client:
            await client.say(request)
            return await client.message()

    async def get(self, path: str) -> Message:
        return await self.ask(get(path.encode()))

    async def snapshot(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((await self.get("/llmhealth-snapshot")).body)
        return told

    async def backends(self, key: str) -> list[Any]:
        """Read one fact of each server."""
        return [backend[key] for backend in (await self.snapshot())["backends"]]

    async def metrics(self, name: str) -> dict[str, float]:
        """Read the series of one metric, by their labels as they are written."""
        text = (await self.get("/metrics")).body.decode()
        found = {}
        for line in text.splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == f"llama_balancer_{name}":
                found[series.partition("{")[2].rstrip("}")] = float(value)
        return found

    def log(self) -> list[dict[str, Any]]:
        """Read the lines that were logged until now."""
        # The place where it writes next is the file's, shared with us: it must not be moved.
        file = self._log.fileno()
        lines = os.pread(file, os.fstat(file).st_size, 0).decode().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Read the lines that were logged of one event."""
        return [line for line in self.log() if line.get("event") == name]

    def returns(self) -> list[dict[str, Any]]:
        """List the lines of servers that are up again."""
        return [line for line in self.events("server.up") if line["before"] != "unknown"]

    def files(self) -> int:
        """Count the open file descriptors (Linux)."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until a condition holds, which may be a coroutine."""
        async with asyncio.timeout(PATIENCE):
            while True:
                held = condition()
                if await held if asyncio.iscoroutine(held) else held:
                    return
                await asyncio.sleep(0.02)

    async def in_flight(self) -> int:
        total: int = sum(await self.backends("total_inflight"))
        return total


@contextlib.asynccontextmanager
async def balancing(
    servers: Mapping[str, ModelHost | Mapping[str, object]],
    models: Mapping[str, object] | None = None,
    *,
    ready: bool = True,
    tree: Path | None = None,
    log: int | None = None,
    tls: ssl.SSLContext | None = None,
    folder: Path | None = None,
    port: int | None = None,
    **settings: object,
) -> AsyncIterator[Running]:
    """Run the balancer until the block ends; it must then stop by itself, without complaint.

    It may have been told to stop before. `ready`: wait until each server has listed its models.
    `tree`: where the program lies, if not here. `log`: where its log goes, if not into a file
    that is read here; `tls`: what it is connected to by; `folder`: where servers and models are
    written as secrets are, to be changed there; `port`: where it listens.
    `settings` are the variables, in lower case and without their prefix.
    """
    port = port or free_port()
    written = {
        name: {"addr": f"http://127.0.0.1:{one.port}"} if isinstance(one, ModelHost) else one
        for name, one in servers.items()
    }
    environment = {k: v for k, v in os.environ.items() if not k.startswith("BALANCER_")}
    environment |= {
        "BALANCER_PORT": str(port),
        "BALANCER_SERVERS": json.dumps(written),
        "BALANCER_MODELS": json.dumps(_for_all(servers) if models is None else models),
        "BALANCER_PROBE_INTERVAL": "0.2",
        "BALANCER_LOG_FORMAT": "json",
        "BALANCER_SHUTDOWN_TIMEOUT": "1",
        **{f"BALANCER_{name.upper()}": str(value) for name, value in settings.items()},
    }
    if folder is not None:
        for name in ("BALANCER_SERVERS", "BALANCER_MODELS"):
            (folder / name).write_text(environment.pop(name))
        environment["BALANCER_SECRETS_DIR"] = str(folder)
    with tempfile.TemporaryFile() as file:
        output = file if log is None else log
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app", env=environment, stdout=output, stderr=output, cwd=tree
        )
        running = Running(port, process, file, tls)
        try:
            await running.until(lambda: _answers(running))
            if ready:
                await running.until(lambda: _ready(running))
            yield running
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            code = await asyncio.wait_for(process.wait(), PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            file.seek(0)
            logged = file.read().decode()
        assert code == 0, logged
        assert "Traceback" not in logged, logged


def _for_all(servers: Mapping[str, object]) -> dict[str, list[str]]:
    return {".*": list(servers)} if servers else {}


async def _answers(running: Running) -> bool:
    assert running.process.returncode is None, "the balancer did not start"
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        return (await running.get("/llmhealth")).status == 200
    return False


async def _ready(running: Running) -> bool:
    return all(models is not None for models in await running.backends("models"))
