"""Measure what a request, an event and an open stream cost, beside the controls.

    make bench
    python -m tests.bench --rounds 9 --seconds 5 --only json --contenders nginx,haproxy

Each proxy has one core, load and upstream share another. What is compared is the CPU time
of the proxy's own process: rounds take turns, so that all meet the same weather, and the
ratios are medians within this run. Absolute figures mean little elsewhere.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import app.routing.balancer
from tests.bench.contenders import (
    CONTENDERS,
    NGINX,
    OURS,
    UVICORN,
    VLLM_ROUTER,
    Contender,
    Running,
    running,
)
from tests.bench.guesses import guesses
from tests.bench.load import ANSWERED
from tests.bench.process import cpu_seconds, resident_bytes
from tests.bench.table import (
    Figures,
    FleetFigures,
    KeysFigures,
    fleet_table,
    guesses_table,
    keys_table,
    table,
)
from tests.fakes.ports import free_port

CONNECTIONS = 16
STREAMS = 200
OPEN_STREAMS = 1000
KINDS = ["memory", "json", "prompt", "sse", "fleet", "keys", "guesses"]
OWN = ("fleet", "keys", "guesses")
"""Kinds that compare us with ourselves."""

FLEETS = (2, 200)
KEYS = (0, 1, 1000)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a round")
    parser.add_argument("--only", choices=KINDS, action="append")
    parser.add_argument("--contenders", default="", help="names, separated by commas; else all")
    arguments = parser.parse_args(argv)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("the benchmark needs two cores", file=sys.stderr)
        return 1
    kinds = arguments.only or KINDS
    wanted = {name.strip() for name in arguments.contenders.split(",") if name.strip()}
    chosen = [
        c
        for c in CONTENDERS
        if not wanted or c.name in wanted or c in (OURS, UVICORN, NGINX, VLLM_ROUTER)
    ]
    missing = [c.name for c in chosen if c.path is None]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(_upstream(cores[1]))
        here = {}
        for contender in chosen:
            if contender.path is None:
                continue
            try:
                here[contender] = stack.enter_context(
                    running(contender, upstream, folder, cores[0])
                )
            except RuntimeError as error:
                if contender in (OURS, UVICORN, NGINX):
                    raise
                print(f"{contender.name} is left out: {error}", file=sys.stderr)
        # Memory first: what other rounds leave free, streams would fill without growth.
        figures = {
            kind: _measure(kind, here, cores[1], arguments)
            for kind in sorted(kinds, key=KINDS.index)
            if kind not in OWN
        }
        own: dict[str, Callable[[], str]] = {
            "fleet": lambda: fleet_table(_fleet(folder, cores, arguments)),
            "keys": lambda: keys_table(_keys(folder, upstream, cores, arguments)),
            "guesses": lambda: guesses_table(guesses()),
        }
        tables = [table(figures)] if figures else []
        tables += [write() for kind, write in own.items() if kind in kinds]
    how = "not compiled" if str(app.routing.balancer.__file__).endswith(".py") else "compiled"
    machine = platform.processor() or platform.machine()
    print("\n\n".join([f"{machine}, Python {platform.python_version()}, {how}", *tables]))
    if missing:
        print(f"\nNot installed: {', '.join(missing)}.")
    return 0


def _measure(
    kind: str, contenders: dict[Contender, Running], core: int, arguments: argparse.Namespace
) -> Figures:
    found: dict[str, list[float]] = defaultdict(list)
    fit = {c: r for c, r in contenders.items() if c.streams or kind in ANSWERED}
    if kind == "memory":
        for proxy in fit.values():
            _microseconds("json", proxy, core, 0.5)  # warm up
            found[proxy.name].append(_kilobytes_per_stream(proxy, core))
        return {name: statistics.median(values) for name, values in found.items()}
    for proxy in fit.values():
        _microseconds(kind, proxy, core, 0.5)  # warm up
    for _ in range(arguments.rounds):
        for proxy in fit.values():
            found[proxy.name].append(_microseconds(kind, proxy, core, arguments.seconds))
    return {name: statistics.median(values) for name, values in found.items()}


def _fleet(folder: Path, cores: list[int], arguments: argparse.Namespace) -> FleetFigures:
    """Measure what many servers cost us, at rest and for each request."""
    found: FleetFigures = defaultdict(list)
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(_upstream(cores[1], "llama.cpp"))
        address = {"addr": "http://127.0.0.1", "model_port": upstream, "health_port": upstream}
        fleets = {
            size: stack.enter_context(
                running(OURS, upstream, folder, cores[0], {f"s{n}": address for n in range(size)})
            )
            for size in FLEETS
        }
        for proxy in fleets.values():
            _microseconds("prompt", proxy, cores[1], 0.5)  # warm up
        for _ in range(arguments.rounds):
            for size, proxy in fleets.items():
                found["rest", size].append(_percent_of_a_core(proxy, arguments.seconds))
                cost = _microseconds("prompt", proxy, cores[1], arguments.seconds)
                found["prompt", size].append(cost)
    return found


def _keys(
    folder: Path, upstream: int, cores: list[int], arguments: argparse.Namespace
) -> KeysFigures:
    """Measure what a request costs where so many keys are known."""
    found: KeysFigures = defaultdict(list)
    with contextlib.ExitStack() as stack:
        proxies = {
            count: stack.enter_context(running(OURS, upstream, folder, cores[0], keys=count))
            for count in KEYS
        }
        for proxy in proxies.values():
            _microseconds("json", proxy, cores[1], 0.5)  # warm up
        for _ in range(arguments.rounds):
            for count, proxy in proxies.items():
                found[count].append(_microseconds("json", proxy, cores[1], arguments.seconds))
    return found


def _percent_of_a_core(proxy: Running, seconds: float) -> float:
    before, begun = cpu_seconds(proxy.pid), time.monotonic()
    time.sleep(seconds)
    return 100 * (cpu_seconds(proxy.pid) - before) / (time.monotonic() - begun)


def _microseconds(kind: str, proxy: Running, core: int, seconds: float) -> float:
    """Measure the CPU time of the proxy per answer or event, in microseconds."""
    connections = CONNECTIONS if kind in ANSWERED else STREAMS
    with _load(kind, proxy.port, connections, seconds, core) as load:
        assert load.stdout is not None
        load.stdout.readline()
        before = cpu_seconds(proxy.pid)
        counted = json.loads(load.stdout.readline())
        spent = cpu_seconds(proxy.pid) - before
    if counted["errors"]:
        raise RuntimeError(f"{proxy.name}: {counted['errors']} requests failed")
    units: int = counted["answers" if kind in ANSWERED else "events"]
    if not units:
        raise RuntimeError(f"{proxy.name} passed nothing on")
    return spent / units * 1e6


def _kilobytes_per_stream(proxy: Running, core: int) -> float:
    before = resident_bytes(proxy.pid)
    with _load("idle", proxy.port, OPEN_STREAMS, 0.5, core) as load:
        assert load.stdout is not None
        load.stdout.readline()
        counted = json.loads(load.stdout.readline())
        after = resident_bytes(proxy.pid)
    if counted["errors"]:
        raise RuntimeError(f"{proxy.name}: {counted['errors']} streams failed")
    return (after - before) / OPEN_STREAMS / 1000


@contextlib.contextmanager
def _load(
    kind: str, port: int, connections: int, seconds: float, core: int
) -> Iterator["subprocess.Popen[bytes]"]:
    numbers = [str(port), str(connections), str(seconds)]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.load", kind, *numbers],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


@contextlib.contextmanager
def _upstream(core: int, *kind: str) -> Iterator[int]:
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.upstream", str(port), *kind],
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    ) as process:
        try:
            yield port
        finally:
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
