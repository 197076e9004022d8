"""Several processes serve one address, and keep together what a server takes."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.model_host import ModelHost
from tests.fakes.ports import free_port
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import chat
from tests.fakes.valkey import PROGRAM, Valkey, valkey

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(PROGRAM is None, reason="neither valkey-server nor redis-server is here"),
    pytest.mark.skipif(sys.platform != "linux", reason="who started whom is read from /proc"),
]

LIMIT = 4


def port_before_free_ones() -> int:
    """Find a free port that two others follow."""
    while True:
        first, *others = (free_port() for _ in range(3))
        if others == [first + 1, first + 2]:
            return first


@contextlib.asynccontextmanager
async def two_workers(host: ModelHost, store: Valkey) -> AsyncIterator[Running]:
    """Run a balancer of two processes before a server."""
    settings: dict[str, Any] = {"workers": 2, "valkey_url": store.url, "queue_max": 10_000}
    port = port_before_free_ones()
    async with balancing({"A": host.limited(LIMIT)}, port=port, **settings) as found:
        await found.until(lambda: are_two(found))
        yield found


async def are_two(running: Running) -> bool:
    return bool((await running.snapshot())["store"]["replicas"] == 2)


async def ask_many(running: Running, requests: int = 100) -> set[str]:
    """Ask many at once; return which processes have responded, as the ids of requests say."""
    asks = [running.ask(chat(address=f"10.0.0.{number % 50}")) for number in range(requests)]
    responses = await asyncio.gather(*asks)
    assert {response.status for response in responses} == {200}
    return {response["x-request-id"].partition("-")[0] for response in responses}


def workers_of(running: Running) -> list[int]:
    """List the processes that it has started."""
    pid = running.process.pid
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


async def test_both_serve_and_keep_to_the_limit_together() -> None:
    host = ModelHost()
    async with valkey() as store, host.running(), two_workers(host, store) as two:
        processes: set[str] = set()
        while len(processes) < 2:
            processes |= await ask_many(two)

    assert host.peak <= LIMIT


async def test_each_counts_at_a_port_of_its_own() -> None:
    host = ModelHost()
    async with valkey() as store, host.running(), two_workers(host, store) as two:
        await ask_many(two)
        counts = []
        for _ in range(2):
            two.port += 1
            counts.append(sum((await two.metrics("requests_total")).values()))
        two.port -= 2

    assert sum(counts) == 100


async def test_one_that_dies_is_replaced_and_the_other_serves_meanwhile() -> None:
    host = ModelHost()
    async with valkey() as store, host.running(), two_workers(host, store) as two:
        victim, other = workers_of(two)
        os.kill(victim, signal.SIGKILL)
        await two.until(lambda: two.events("worker.ended"))
        await ask_many(two)
        await two.until(lambda: len({*workers_of(two)} - {victim}) == 2)

        assert other in workers_of(two)
        await two.until(lambda: len(two.events("balancer.listening")) == 3)


async def test_a_signal_for_other_settings_reaches_both() -> None:
    host = ModelHost()
    async with valkey() as store, host.running(), two_workers(host, store) as two:
        two.process.send_signal(signal.SIGHUP)
        await two.until(lambda: len(two.events("settings.taken_in")) == 2)


async def test_they_stop_with_the_process_that_started_them() -> None:
    host = ModelHost()
    async with valkey() as store, host.running():
        with contextlib.suppress(AssertionError):  # it ends as it must not
            async with two_workers(host, store) as two:
                two.process.kill()
                await two.process.wait()
                while listens(two.port):
                    await asyncio.sleep(0.05)
