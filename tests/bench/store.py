"""`make bench-store`: what a request costs more where balancers share a store.

One client asks one balancer, again and again; beside it there are others that share the store, or
none. Of each process it is CPU time that counts, and of the store the time that its commands took,
as it tells itself (`INFO commandstats`). Balancers that share are compared with one alone, in the
same run.
"""

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.bench.load import request
from tests.bench.process import cpu_seconds
from tests.fakes.model_host import ModelHost
from tests.fakes.process import Running, balancing
from tests.fakes.valkey import PROGRAM, Valkey, valkey

WARM = 300
"""Requests before those that are measured."""

KINDS = {"json": "short", "prompt": "2 KB of conversation"}

HEAD = """
| request | balancers | p50, ms | p99, ms | CPU, µs | store, µs | each other balancer, µs |
|---|---|---|---|---|---|---|"""


class Cost(NamedTuple):
    """What a request costs."""

    half: float
    """Seconds that half of them take at the most."""
    most: float
    """Seconds that 99 % of them take at the most."""
    cpu: float
    """Seconds of a core."""
    store: float
    """Seconds of the store's core."""
    others: float
    """Seconds of a core that each other balancer takes for it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.store", description=__doc__)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args(arguments)
    if PROGRAM is None:
        print("neither valkey-server nor redis-server is here", file=sys.stderr)
        return 1
    print(HEAD, flush=True)
    for kind, title in KINDS.items():
        for count in (0, 1, 3):
            costs = [asyncio.run(measure(kind, count, asked.requests)) for _ in range(asked.rounds)]
            print(
                row(
                    title,
                    count,
                    [sorted(each)[len(each) // 2] for each in zip(*costs, strict=True)],
                )
            )
    return 0


def row(title: str, count: int, figures: Sequence[float]) -> str:
    """Write medians of costs as a row of the table."""
    half, most, cpu, store, others = figures
    shared = f"{store * 1e6:.0f}" if count else "–"
    rest = f"{others * 1e6:.0f}" if count > 1 else "–"
    name = f"{count}, sharing" if count else "1, alone"
    times = f"{half * 1e3:.2f} | {most * 1e3:.2f} | {cpu * 1e6:.0f}"
    return f"| {title} | {name} | {times} | {shared} | {rest} |"


async def measure(kind: str, count: int, requests: int) -> Cost:
    """Ask one of so many balancers that share a store, or one that has none (0)."""
    host = ModelHost()
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(valkey())
        await stack.enter_async_context(host.running())
        settings: dict[str, Any] = {"valkey_url": store.url} if count else {}
        first, *others = [
            await stack.enter_async_context(
                balancing({"A": host.limited(50)}, probe_interval=1, **settings)
            )
            for _ in range(max(1, count))
        ]
        await ask(first, kind, WARM)
        before = [cpu_seconds(one.process.pid) for one in (first, *others)]
        worked = await commands(store)
        times = sorted(await ask(first, kind, requests))
        spent = (await commands(store) - worked) / requests
        after = [cpu_seconds(one.process.pid) for one in (first, *others)]
        ours, *theirs = [(b - a) / requests for a, b in zip(before, after, strict=True)]
        rest = sum(theirs) / len(theirs) if theirs else 0.0
        return Cost(
            times[len(times) // 2], times[len(times) * 99 // 100], ours, spent if count else 0, rest
        )


async def ask(balancer: Running, kind: str, requests: int) -> list[float]:
    """Ask a balancer one thing after another; return how long each took."""
    times = []
    async with balancer.client() as client:
        for number in range(requests):
            begun = time.perf_counter()
            await client.say(request(kind, number % 50))
            response = await client.message()
            times.append(time.perf_counter() - begun)
            assert response.status == 200, response
    return times


async def commands(store: Valkey) -> float:
    """Return how many seconds the store has worked on commands."""
    told = await store.read("INFO", "commandstats")
    lines = (line for line in told.splitlines() if line.startswith("cmdstat_"))
    fields = (dict(x.split("=") for x in line.partition(":")[2].split(",")) for line in lines)
    return sum(float(field["usec"]) for field in fields) / 1e6


if __name__ == "__main__":
    raise SystemExit(main())
