"""`make simulate`: who gets a place, and what that costs all others, in seconds."""

import argparse
import copy
import random
from collections.abc import Callable, Sequence
from statistics import mean

from tests.simulation.batching import batch
from tests.simulation.conversations import Conversation, agents, chats, possible
from tests.simulation.run import Fleetwide, Result, mean_of, quantile, run
from tests.simulation.swapping import Demand, Swapped, swap

Talk = list[Conversation]

SCENARIOS = {
    "16 agents, no RAM cache": (16, 0, 0),
    "16 agents, RAM 2,000 blocks a server": (16, 0, 2000),
    "24 agents, RAM 2,000": (24, 0, 2000),
    "10 agents and 12 chats, RAM 2,000": (10, 12, 2000),
    "8 agents": (8, 0, 0),
    "60 chats, no RAM cache": (0, 60, 0),
}
"""Agents, chats, and blocks of RAM, on four servers of two slots."""

BATCHES = {
    "12 agents and 40 chats": (12, 40, 16_000),
    "32 agents": (32, 0, 16_000),
}
"""Agents, chats, and blocks of memory, on four servers without slots, as vLLM's."""

SWAPS = {
    "3 models of 4 clients, loads of 20 s": Demand(),
    "the same, without pauses": Demand(pause=(0.5, 2.0)),
    "the same, loads of 60 s": Demand(load=60.0),
    "a burst of 10 for each": Demand(clients=10, requests=1, pause=(0.0, 3.0)),
}
"""What is asked of two servers with room for one model each."""

SWAPS_HEAD = """
| on 2 servers, one model each | | loads | wait p50 / p95 / mean, s | longest, s | done, s |
|---|---|---|---|---|---|"""

HEAD = """
| on 8 slots | | cached | possible | first token p50 / p95 / mean, s | chats | done, s |
|---|---|---|---|---|---|---|"""


def main() -> None:
    """Play the scenarios with and without held places, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--scenarios", default="", help="a part of their names")
    parser.add_argument("--hold", type=float, action="append", help="BALANCER_HOLD_MAX, in seconds")
    asked = parser.parse_args()
    holds, seeds = asked.hold or (0.0, 30.0), range(asked.seeds)
    print(HEAD)
    for name, (agent_count, chat_count, ram) in SCENARIOS.items():
        if asked.scenarios in name:
            talks = [conversations(agent_count, chat_count, n) for n in seeds]
            _play(name, talks, holds, _on_slots(ram))
    print(HEAD.replace("on 8 slots", "on 4 servers without slots"))
    for name, (agent_count, chat_count, memory) in BATCHES.items():
        if asked.scenarios in name:
            talks = [conversations(agent_count, chat_count, n) for n in seeds]
            _play(name, talks, holds, _without_slots(memory))
    print(SWAPS_HEAD)
    for name, demand in SWAPS.items():
        if asked.scenarios in name:
            for hold in holds:
                swaps = [swap(demand, 2, n, hold_max=hold, wait_max=150.0) for n in seeds]
                print(swaps_row(name, hold, swaps), flush=True)


def _play(
    name: str, talks: list[Talk], holds: Sequence[float], play: Callable[[Talk, int, float], Result]
) -> None:
    for hold in holds:
        again = [copy.deepcopy(talk) for talk in talks]
        played = [play(talk, n, hold) for n, talk in enumerate(again)]
        print(row(name, hold, played, mean(map(possible, talks))), flush=True)


def _on_slots(ram: int) -> Callable[[Talk, int, float], Result]:
    return lambda talk, seed, hold: run(talk, Fleetwide(ram=ram), seed, hold_max=hold)


def _without_slots(memory: int) -> Callable[[Talk, int, float], Result]:
    return lambda talk, seed, hold: batch(talk, 4, memory, seed, hold_max=hold)


def conversations(agent_count: int, chat_count: int, seed: int) -> list[Conversation]:
    chance = random.Random(seed)
    return agents(agent_count, chance) + chats(chat_count, chance)


def row(name: str, hold: float, results: list[Result], best: float) -> str:
    every = [x for result in results for x in result.every()]
    first = f"{mean_of(results, 0.5):.1f} / {mean_of(results, 0.95):.1f} / {mean(every):.1f}"
    chat = f"{mean_of(results, 0.5, 'chat'):.1f} / {mean_of(results, 0.95, 'chat'):.1f}"
    cached = mean(result.cached for result in results)
    done = mean(result.all_done for result in results)
    return (
        f"| {name} | hold {hold:g} | {cached:.2f} | {best:.2f} | {first} | {chat} | {done:,.0f} |"
    )


def swaps_row(name: str, hold: float, results: list[Swapped]) -> str:
    waits = [wait for result in results for wait in result.waits]
    wait = f"{quantile(waits, 0.5):.0f} / {quantile(waits, 0.95):.0f} / {mean(waits):.0f}"
    loads = mean(result.loads for result in results)
    done = mean(result.all_done for result in results)
    return f"| {name} | hold {hold:g} | {loads:.0f} | {wait} | {max(waits):.0f} | {done:,.0f} |"


if __name__ == "__main__":
    main()
