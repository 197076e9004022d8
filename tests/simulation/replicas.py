"""`make simulate-replicas`: what late news costs where many balancers share a store.

Each replica is a real balancer; the servers, the store and the clock are modelled. Conversations
reach another replica with each turn. The store knows at once who is where, and lets nobody have a
place or a slot that somebody has; what a replica has placed the others hear a while later.
"""

import argparse
import functools
import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from app.routing.balancer import Balancer
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.ledger import Lease
from app.routing.observations import Introduced, ModelsSeen, SelfReport
from app.routing.prompt import Prompt
from app.routing.prompt_cache import Occupancy
from app.routing.told_prompts import ToldPrompt, follow
from tests.fakes.kinds import LLAMA_CPP

MODEL: Final = "m"

READ, WRITE = 1 / 4000, 5.0
"""Seconds to read a character of a prompt, and to write a response."""

SAID: Final = 2000
"""Characters that each turn adds to a conversation."""

RETRY: Final = 0.005
"""Seconds until a request that the store has turned away tries again."""

PROBE: Final = 1.0
"""Seconds until a server tells a replica which of its slots are busy."""

POLL: Final = 0.05
"""Seconds until a request that waits looks again whether there is a place."""

DELAYS: Final = (0.0, 0.005, 0.1, 1.0, math.inf)
"""Seconds until others hear."""

HEAD = """
| news after | cached, × the best | turned away, of 1,000 | waited, of 1,000 | first token, mean |
|---|---|---|---|---|"""


@dataclass(frozen=True)
class World:
    """What there is, and who asks."""

    servers: int = 1000
    replicas: int = 100
    slots: int = 2
    conversations: int = 1600
    turns: int = 6
    pause: float = 20.0
    """Seconds between the turns of a conversation, on average."""


@dataclass
class Outcome:
    """What came of it."""

    requests: int = 0
    known: int = 0
    """Characters of prompts that were in the slot."""
    possible: int = 0
    """Those that would have been, if each conversation had a slot of its own."""
    turned_away: int = 0
    """Places and slots that the store did not give, as somebody had them."""
    waited: int = 0
    first_tokens: float = 0.0
    """Seconds until them, all added up."""


@dataclass
class ModelledServer:
    """Which conversation each slot holds, and which slots are at work."""

    slots: list[tuple[int, int]]
    """A conversation and how many characters of it, by slot."""
    at_work: set[int] = field(default_factory=set)


@dataclass
class Replica:
    """A balancer, and what others have told it."""

    balancer: Balancer
    occupancies: dict[int, Occupancy] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)


class Simulation:
    """Plays all conversations to their ends, in no real time."""

    def __init__(self, world: World, delay: float, seed: int) -> None:
        self.now = 0.0
        self.outcome = Outcome()
        self._world, self._delay = world, delay
        self._random = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        names = [f"S{number}" for number in range(world.servers)]
        self._servers = {name: ModelledServer([(-1, 0)] * world.slots) for name in names}
        fleet = Fleet.of(
            [Server(name, f"http://{name}", request_max=world.slots) for name in names],
            {MODEL: names},
        )
        self._replicas = [
            Replica(self._balancer(fleet, number)) for number in range(world.replicas)
        ]

    def run(self) -> Outcome:
        """Play, and return what came of it."""
        for number in range(self._world.conversations):
            self._after(self._pause(), functools.partial(self._begin, number))
        while self._events:
            self.now, _, do = heapq.heappop(self._events)
            do()
        return self.outcome

    def _balancer(self, fleet: Fleet, number: int) -> Balancer:
        # Else all would send a new conversation to the same server in the same moment.
        order = [*fleet.servers]
        random.Random(number).shuffle(order)
        own = Fleet.of([fleet.servers[name] for name in order], {MODEL: order})
        balancer = Balancer(own, clock=lambda: self.now)
        for name in order:
            balancer.observe(ModelsSeen(name, [MODEL]))
            idle = frozenset[int]()
            balancer.observe(SelfReport(name, LLAMA_CPP, slots=self._world.slots, busy_slots=idle))
            balancer.observe(Introduced(name))
        return balancer

    def _after(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), do))

    def _pause(self) -> float:
        return self._random.expovariate(1 / self._world.pause)

    def _begin(self, conversation: int) -> None:
        self._ask(conversation, 1, self.now)

    def _ask(self, conversation: int, turn: int, since: float) -> None:
        """Have a turn of a conversation reach one of the replicas."""
        said = [(f"{conversation}, {n}: " * SAID)[:SAID] for n in range(turn)]
        ask = Ask(MODEL, (MODEL,), str(conversation), "10.0.0.1", Prompt(said, 0))
        self._place(self._random.choice(self._replicas), ask, conversation, turn, since)

    def _place(
        self, replica: Replica, ask: Ask, conversation: int, turn: int, since: float
    ) -> None:
        lease = replica.balancer.place(ask)
        again = lambda: self._place(replica, ask, conversation, turn, since)  # noqa: E731
        if not isinstance(lease, Lease):
            self.outcome.waited += 1
            self._after(POLL, again)
            return
        server = self._servers[lease.server]
        slot = 0 if lease.slot is None else lease.slot
        if lease.slot is None or slot in server.at_work:
            self.outcome.turned_away += 1
            lease.worked = False
            lease.release()
            replica.balancer.backend(lease.server).others_have(server.at_work)
            self._after(PROBE, lambda: self._probe(replica, lease.server))
            self._after(RETRY, again)
            return
        self._serve(replica, lease, ask.prompt or Prompt(()), (conversation, turn, since))

    def _probe(self, replica: Replica, server: str) -> None:
        """Have a replica see which slots of a server are busy."""
        busy = frozenset(self._servers[server].at_work)
        slots = self._world.slots
        replica.balancer.observe(SelfReport(server, LLAMA_CPP, slots=slots, busy_slots=busy))

    def _serve(
        self, replica: Replica, lease: Lease, prompt: Prompt, asked: tuple[int, int, float]
    ) -> None:
        conversation, turn, since = asked
        server, slot, number = self._servers[lease.server], lease.slot or 0, next(self._numbers)
        whose, size = server.slots[slot]
        known = size if whose == conversation else 0
        outcome, reading = self.outcome, (prompt.size - known) * READ
        outcome.requests += 1
        outcome.known += known
        outcome.possible += (turn - 1) * SAID
        outcome.first_tokens += self.now - since + reading
        server.at_work.add(slot)
        told = ToldPrompt(
            MODEL,
            slot,
            True,
            self._world.slots,
            0,
            Prompt.summed_up(prompt.summary()),
            self.now,
        )
        self._tell(replica, lambda other: self._hear(other, lease.server, number, told))

        def end() -> None:
            server.at_work.discard(slot)
            server.slots[slot] = conversation, prompt.size
            lease.succeeded = True
            lease.release()
            self._tell(replica, lambda other: self._hear_of_end(other, lease.server, number))
            if turn < self._world.turns:
                self._after(self._pause(), lambda: self._ask(conversation, turn + 1, self.now))

        self._after(reading + WRITE, end)

    def _tell(self, teller: Replica, hear: Callable[[Replica], None]) -> None:
        """Have all others hear, once the news has reached them."""

        def arrive() -> None:
            for replica in self._replicas:
                if replica is not teller:
                    hear(replica)

        if self._delay < math.inf:
            self._after(self._delay, arrive)

    def _hear(self, replica: Replica, server: str, number: int, told: ToldPrompt) -> None:
        occupancy = follow(replica.balancer.backend(server), told)
        if occupancy is not None:
            replica.occupancies[number] = occupancy
            replica.others[server] += 1
            replica.balancer.others_at(server, replica.others[server])

    def _hear_of_end(self, replica: Replica, server: str, number: int) -> None:
        occupancy = replica.occupancies.pop(number, None)
        if occupancy is not None:
            occupancy.end(self.now, worked=True)
            replica.others[server] -= 1
            replica.balancer.others_at(server, replica.others[server])


def row(delay: float, outcome: Outcome) -> str:
    """Write an outcome as a row of the table."""
    many = outcome.requests / 1000
    news = f"{delay:g} s" if delay < math.inf else "never"
    return (
        f"| {news} | {outcome.known / outcome.possible:.3f} | {outcome.turned_away / many:.0f} "
        f"| {outcome.waited / many:.0f} | {outcome.first_tokens / outcome.requests:.2f} s |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate each delay, and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.replicas", description=__doc__
    )
    parser.add_argument("--servers", type=int, default=World.servers)
    parser.add_argument("--replicas", type=int, default=World.replicas)
    parser.add_argument("--conversations", type=int, default=World.conversations)
    parser.add_argument("--delays", type=float, nargs="+", default=DELAYS, metavar="SECONDS")
    asked = parser.parse_args(arguments)
    world = World(asked.servers, asked.replicas, conversations=asked.conversations)
    print(HEAD, flush=True)
    for delay in asked.delays:
        print(row(delay, Simulation(world, delay, seed=1).run()), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
