"""Many streams for a long time, with churn, faults and a log that nobody reads: nothing piles up.

`BALANCER_STREAMS` and `BALANCER_STREAM_SECONDS` say how many and how long (`make soak`: a thousand
for ten minutes). How much memory and how late the event loop is, is looked at only where it lasts
for five minutes: before that caches still fill.
"""

import asyncio
import contextlib
import os
import random
import statistics
import sys
from pathlib import Path

import pytest

from tests.fakes.model_host import STREAM_END, ModelHost, event
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import SSE, Message, Visit, chat

STREAMS = int(os.environ.get("BALANCER_STREAMS", "40"))
SECONDS = int(os.environ.get("BALANCER_STREAM_SECONDS", "4"))
LONG = 300
PACE = 1.0 if SECONDS >= LONG else 0.1
"""Seconds between two tokens at the most."""

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.timeout(2 * SECONDS + 200),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


async def streaming(visit: Visit, message: Message) -> bytes | None:
    """Stream for a while; one in ten breaks off, and one in twenty says nothing at all."""
    chance = random.random()
    if chance < 0.05:
        return None
    await visit.say(SSE)
    for number in range(random.randint(2, 20)):
        await asyncio.sleep(random.uniform(0.2, 1.0) * PACE)  # the pace of a model
        await visit.say(event(f" token {number}"))
        if chance < 0.15 and number > 5:
            return None
    return STREAM_END


class Client:
    """Asks for one stream after another, and leaves one in five in the middle."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.whole = 0

    async def run(self, balancer: Running, ending: asyncio.Event) -> None:
        while not ending.is_set():
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
                await self._ask(balancer)

    async def _ask(self, balancer: Running) -> None:
        patience = random.uniform(0.5, 3.0) * PACE if random.random() < 0.2 else 60.0
        words = f"Client {self.number} says {random.random()}. " * 40
        async with asyncio.timeout(patience), balancer.client() as client:
            said = [{"role": "user", "content": words}]
            await client.say(chat(stream=True, messages=said))
            response = await client.message()
            self.whole += response.body.endswith(b"[DONE]\n\n")


class Process:
    """What the system tells of a process."""

    def __init__(self, pid: int) -> None:
        self._place = Path(f"/proc/{pid}")

    @property
    def resident(self) -> int:
        """Memory, in KiB."""
        lines = (self._place / "status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmRSS:")))

    @property
    def files(self) -> int:
        return len(list((self._place / "fd").iterdir()))


async def late(balancer: Running) -> dict[float, float]:
    """Read how often the event loop was at most so late, in seconds."""
    series = await balancer.metrics("event_loop_lag_seconds_bucket")
    return {float(labels.split('"')[1].replace("+Inf", "inf")): n for labels, n in series.items()}


async def test_streams_that_come_and_go_for_long_leave_nothing_behind() -> None:
    hosts = {name: ModelHost(streaming) for name in ("A", "B")}
    reading, writing = os.pipe()
    clients = [Client(number) for number in range(STREAMS)]
    async with contextlib.AsyncExitStack() as stack:
        for host in hosts.values():
            await stack.enter_async_context(host.running())
        balancer = await stack.enter_async_context(
            balancing(
                hosts,
                log=writing,
                queue_max=2 * STREAMS,
                max_connections_per_client=4 * STREAMS,
            )
        )
        process = Process(balancer.process.pid)
        before, files = process.files, []
        begun = await late(balancer)
        ending = asyncio.Event()
        tasks = [asyncio.create_task(client.run(balancer, ending)) for client in clients]
        memory = []
        for _ in range(SECONDS):
            await asyncio.sleep(1)
            memory.append(process.resident)
            files.append(process.files)
        ended = await late(balancer)
        ending.set()
        await asyncio.gather(*tasks)
        await balancer.until(lambda: _rests(balancer))
        await balancer.until(lambda: process.files <= before)

    os.close(writing)
    os.close(reading)
    assert sum(client.whole for client in clients) > STREAMS * SECONDS / 60
    assert max(files) > before + STREAMS
    if SECONDS >= LONG:
        tenth = SECONDS // 10
        middle, end = memory[4 * tenth : 6 * tenth], memory[-tenth:]
        growth = statistics.median(end) / statistics.median(middle)
        counts = {edge: count - begun[edge] for edge, count in ended.items()}
        on_time = counts[0.02] / counts[float("inf")]
        print(f"memory {growth:.3f} of {statistics.median(end)} KiB, within 20 ms {on_time:.4f}")
        assert growth <= 1.05
        assert on_time >= 0.99


async def _rests(balancer: Running) -> bool:
    return not any(await balancer.backends("total_inflight"))
