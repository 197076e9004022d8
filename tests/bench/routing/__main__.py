"""`make bench-routing`: how well requests are placed, ours beside others, on the same talk."""

import argparse
import asyncio
import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from app.demo.model_server import ModelServer
from tests.bench.routing.contenders import NAMES, OURS, REPLICAS, installed, running
from tests.bench.routing.play import Result, play
from tests.bench.routing.scenarios import RECORDED, SCENARIOS, Scenario
from tests.fakes.llama_cpp import CONTEXT, LONGEST, llama_cpp, write_tiny_model
from tests.fakes.ports import free_port
from tests.fakes.serving import serving

HEAD = """
| | cached | of the best | first token, half | 95 % | all done | peaks | unluckiest |
|---|---|---|---|---|---|---|---|"""

REUSE, UNFAIR = 0.98, 2.0
"""The bars: cached tokens against the best possible; an identity's wait against the mean."""

SHARED = 0.97
"""The bar for cached tokens of three replicas, against those of one balancer."""


def main(arguments: list[str] | None = None) -> int:
    """Measure; the exit status is 1 where a bar was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.routing", description=__doc__)
    parser.add_argument("--scenarios", default=",".join(one.name for one in SCENARIOS))
    parser.add_argument("--contenders", default=",".join(NAMES))
    parser.add_argument("--real", action="store_true", help="four real llama.cpp servers")
    asked = parser.parse_args(arguments)
    names = [name for name in asked.contenders.split(",") if installed(name)]
    missed: list[str] = []
    for scenario in (*SCENARIOS, *RECORDED):
        if scenario.name in asked.scenarios.split(","):
            print(f"\n### {scenario.name}: {scenario.about}\n{HEAD}", flush=True)
            results = {}
            for name in names:
                with tempfile.TemporaryDirectory() as folder:
                    results[name] = _measure(name, scenario, Path(folder), real=asked.real)
                print(row(NAMES[name], results[name]), flush=True)
            missed += misses(scenario, results)
    print("\n" + ("\n".join(missed) or "Every bar is cleared."))
    return 1 if missed else 0


def _measure(name: str, scenario: Scenario, folder: Path, *, real: bool) -> Result:
    if real:
        with contextlib.ExitStack() as stack:
            # A token is a byte there.
            scenario = replace(scenario, system=100, question=30, block=5, pace=10.0)
            ram = 8192 if scenario.ram else 0
            context = CONTEXT if scenario.agents is None else LONGEST
            model = folder / "tiny.gguf"
            write_tiny_model(model, layers=2 if scenario.agents is None else 4)
            ports = [free_port() for _ in scenario.speeds]
            for port in ports:
                server = llama_cpp(model, port, slots=scenario.slots, ram=ram, context=context)
                stack.enter_context(server)
            url = stack.enter_context(running(name, "tiny", ports, scenario.slots, folder))
            return asyncio.run(play(url, "tiny", scenario))
    with fleet(scenario) as (servers, ports):
        with running(name, "chat", ports, scenario.slots, folder) as url:
            result = asyncio.run(play(url, "chat", scenario))
        result.peaks = tuple(server.peak for server in servers)
        return result


@contextlib.contextmanager
def fleet(scenario: Scenario) -> Iterator[tuple[list[ModelServer], list[int]]]:
    """Run the modelled servers of a scenario; gives them and their ports."""
    servers = [
        ModelServer(f"PC{number}", ["chat"], slots=scenario.slots, ram=scenario.ram, speed=speed)
        for number, speed in enumerate(scenario.speeds, 1)
    ]
    with contextlib.ExitStack() as stack:
        yield servers, [stack.enter_context(serving(server.app)).port for server in servers]


def row(title: str, result: Result) -> str:
    """Write a result as a row of the table."""
    cells = (
        f"{result.share:.3f}",
        f"{result.of_best:.2f}",
        f"{result.quantile(0.5):.2f} s",
        f"{result.quantile(0.95):.2f} s",
        f"{result.wall:.1f} s" + (f", {result.failures} failed" if result.failures else ""),
        " ".join(map(str, result.peaks)) or "–",
        f"{result.unfairness:.2f} ×",
    )
    return f"| {title} | " + " | ".join(cells) + " |"


def misses(scenario: Scenario, results: dict[str, Result]) -> list[str]:
    """Tell which bars our result misses."""
    if OURS not in results:
        return []
    ours = results[OURS]
    found = []
    if scenario.fits and ours.of_best < REUSE:
        found.append(f"reuses {ours.of_best:.3f} × the best possible, not {REUSE}")
    if REPLICAS in results and results[REPLICAS].share < SHARED * ours.share:
        share = results[REPLICAS].share / ours.share
        found.append(f"three replicas reuse {share:.3f} × what one does, not {SHARED}")
    peers = {n: r for n, r in results.items() if n not in (OURS, REPLICAS)}
    others = {n: r.quantile(0.95) for n, r in peers.items() if not r.failures}
    if others:
        best = min(others, key=others.__getitem__)
        if ours.quantile(0.95) > others[best] * 1.02:  # the clock's own noise
            found.append(
                f"95 % of first tokens within {ours.quantile(0.95):.2f} s, "
                f"with {best} {others[best]:.2f} s"
            )
    if any(peak > scenario.slots for peak in ours.peaks):
        found.append(f"a server got {max(ours.peaks)} requests at once")
    if ours.failures:
        found.append(f"{ours.failures} requests failed")
    if not scenario.fits and ours.unfairness > UNFAIR:
        found.append(f"somebody waited {ours.unfairness:.1f} × the mean")
    return [f"{scenario.name}: {one}" for one in found]


if __name__ == "__main__":
    raise SystemExit(main())
