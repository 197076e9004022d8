"""Balancers behind haproxy are restarted one after another, and no stream is cut."""

import asyncio
import contextlib
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from tests.fakes.model_host import STREAM_END, ModelHost, event
from tests.fakes.ports import free_port
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import SSE, Message, Visit, post
from tests.fakes.valkey import PROGRAM, Valkey, valkey

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(120),
    pytest.mark.skipif(PROGRAM is None, reason="neither valkey-server nor redis-server is here"),
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed"),
]

BUNDLED = Path(__file__).parents[2] / "docker" / "haproxy" / "haproxy.cfg"
STREAMS, EVENTS = 100, 40
DRAIN_DELAY = 3
PATIENCE = 10.0


async def stream(visit: Visit, message: Message) -> bytes | None:
    """Write for some seconds."""
    await visit.say(SSE)
    for _ in range(EVENTS):
        await visit.say(event())
        await asyncio.sleep(0.05)
    return STREAM_END


@contextlib.asynccontextmanager
async def before(ports: Sequence[int], folder: Path) -> AsyncIterator[int]:
    """Run haproxy, as the bundle configures it, before balancers at these ports."""
    port = free_port()
    text = BUNDLED.read_text("utf-8")
    text = re.sub(r"resolvers docker\n(    .*\n)+", "", text).replace(
        " resolvers docker init-addr last,libc,none", ""
    )
    servers = "".join(f"    server b{at} 127.0.0.1:{at}\n" for at in ports)
    text, found = re.subn(r"    server-template .*\n", servers, text)
    assert found == 1
    file = folder / "haproxy.cfg"
    file.write_text(text.replace("bind :18000", f"bind 127.0.0.1:{port}"))
    process = await asyncio.create_subprocess_exec(
        "haproxy", "-f", str(file), stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.05)
        yield port
    finally:
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def one(host: ModelHost, store: Valkey, port: int) -> AsyncIterator[Running]:
    async with balancing(
        {"A": host.limited(2 * STREAMS)},
        port=port,
        valkey_url=store.url,
        drain_delay=DRAIN_DELAY,
        shutdown_timeout=20,
    ) as balancer:
        yield balancer


async def ask(port: int) -> bool:
    """Ask for a stream; tell whether it came to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        body = b'{"model": "m", "messages": [], "stream": true}'
        writer.write(post(body, b"/v1/chat/completions", b"connection: close"))
        return b"data: [DONE]" in await reader.read()
    finally:
        writer.close()


async def test_a_restart_of_all_balancers_cuts_no_stream(tmp_path: Path) -> None:
    host, ports = ModelHost(stream), [free_port() for _ in range(3)]
    whole: list[bool] = []
    restarted = asyncio.Event()

    async def client(front: int) -> None:
        while not restarted.is_set():
            whole.append(await ask(front))

    async with (
        valkey() as store,
        host.running(),
        contextlib.AsyncExitStack() as last,
        before(ports, tmp_path) as front,
    ):
        running = []
        for port in ports:
            running.append(contextlib.AsyncExitStack())
            await running[-1].enter_async_context(one(host, store, port))
        clients = [asyncio.create_task(client(front)) for _ in range(STREAMS)]
        for port, stack in zip(ports, running, strict=True):
            await stack.aclose()
            await last.enter_async_context(one(host, store, port))
        restarted.set()
        await asyncio.gather(*clients)

    assert len(whole) >= 3 * STREAMS
    assert whole.count(False) == 0
