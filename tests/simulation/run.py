"""Plays conversations against modelled servers, by the balancer's own choice and queue."""

import asyncio
import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, Final
from unittest import mock

from app.proxy import queue
from app.proxy.queue import RequestQueue
from app.routing.balancer import Balancer
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.ledger import Lease
from app.routing.observations import CacheReuse, Introduced, ModelsSeen, SelfReport
from tests.fakes.kinds import LLAMA_CPP
from tests.simulation.conversations import BLOCK, Conversation, Request
from tests.simulation.placing import placed
from tests.simulation.servers import READ, WRITE, ModelledServer
from tests.simulation.virtual_loop import VirtualLoop

MODEL: Final = "m"


@dataclass(frozen=True)
class Fleetwide:
    """What servers there are."""

    servers: int = 4
    slots: int = 2
    ram: int = 0
    """Blocks that a server keeps of prompts that have left its slots."""


@dataclass
class Result:
    """What came of it."""

    cached: float
    """The share of all prompts that came from a cache."""
    first: dict[str, list[float]]
    """Seconds until first tokens, by kind of conversation."""
    all_done: float
    """When the last response had ended, in seconds."""
    peak: int
    """The most that were at work on one server at once."""
    beside: list[tuple[float, float]]
    """Seconds that each request waited beside one free slot, and those of its own reading."""

    def every(self) -> list[float]:
        return sorted(x for waits in self.first.values() for x in waits)


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def run(conversations: Sequence[Conversation], fleet: Fleetwide, seed: int, **rules: Any) -> Result:
    """Play all conversations to their ends; `rules` are the balancer's."""
    loop = VirtualLoop()
    with mock.patch.multiple(queue, monotonic=loop.time), contextlib.closing(loop):
        return loop.run_until_complete(_OnSlots(conversations, fleet, loop, rules).play(seed))


class Play:
    """Conversations, and servers of some kind; `serve` and `reports` say how those behave."""

    def __init__(
        self,
        conversations: Sequence[Conversation],
        servers: Sequence[Server],
        loop: VirtualLoop,
        rules: dict[str, Any],
    ) -> None:
        self.loop = loop
        self.conversations = conversations
        self.balancer = Balancer(
            Fleet.of(servers, {".*": [server.name for server in servers]}),
            clock=loop.time,
            sticky_ttl=180.0,
            **rules,
        )
        self.queue = RequestQueue(self.balancer, capacity=10_000, timeout=1e9)
        self.cached = self.prompts = 0
        self.beside: list[tuple[float, float]] = []

    async def serve(
        self, lease: Lease, one: Conversation, request: Request, asked_at: float
    ) -> CacheReuse:
        """Serve a request, and note how long it took until the first token."""
        raise NotImplementedError

    def reports(self) -> Iterator[SelfReport]:
        """Tell what the servers are at."""
        raise NotImplementedError

    def peak(self) -> int:
        """Tell how many were at work on one server at once, at the most."""
        raise NotImplementedError

    async def play(self, seed: int) -> Result:
        for name in self.balancer.fleet.servers:
            self.balancer.observe(ModelsSeen(name, [MODEL]))
            self.balancer.observe(Introduced(name))
        reporting = asyncio.create_task(self._report())
        chance = random.Random(seed)
        talks = [self._talk(one, chance.random() * 30) for one in self.conversations]
        await asyncio.gather(*talks)
        reporting.cancel()
        first: dict[str, list[float]] = {}
        for one in self.conversations:
            first.setdefault(one.kind, []).extend(one.waits)
        cached = self.cached / self.prompts
        return Result(cached, first, self.loop.time(), self.peak(), self.beside)

    async def _report(self) -> None:
        """Have the servers tell each second what they are at."""
        while True:
            for report in self.reports():
                self.balancer.observe(report)
            await asyncio.sleep(1.0)

    async def _talk(self, one: Conversation, begin: float) -> None:
        await asyncio.sleep(begin)
        for request in one.requests:
            await asyncio.sleep(request.pause)
            asked_at = self.loop.time()
            ask = Ask(MODEL, (MODEL,), one.name, one.name, request.prompt)
            lease = await placed(self.balancer, self.queue, ask)
            reuse = await self.serve(lease, one, request, asked_at)
            self.cached += reuse.cached or 0
            self.prompts += reuse.prompt
            lease.succeeded = True
            lease.reuse = reuse
            lease.release()


class _OnSlots(Play):
    """Servers with slots, as llama.cpp's."""

    def __init__(
        self,
        conversations: Sequence[Conversation],
        fleet: Fleetwide,
        loop: VirtualLoop,
        rules: dict[str, Any],
    ) -> None:
        names = [f"PC{number}" for number in range(fleet.servers)]
        known = [Server(name, f"http://{name}", request_max=fleet.slots) for name in names]
        super().__init__(conversations, known, loop, rules)
        self.servers = {name: ModelledServer(name, fleet.slots, fleet.ram) for name in names}

    def peak(self) -> int:
        return max(server.peak for server in self.servers.values())

    def reports(self) -> Iterator[SelfReport]:
        for server in self.servers.values():
            busy = frozenset(n for n, slot in enumerate(server.slots) if slot.busy)
            yield SelfReport(
                server.name,
                LLAMA_CPP,
                slots=len(server.slots),
                busy_slots=busy,
                active=len(busy),
                asked_at=self.loop.time(),
            )

    async def serve(
        self, lease: Lease, one: Conversation, request: Request, asked_at: float
    ) -> CacheReuse:
        server = self.servers[lease.server]
        self.beside.append((self._beside(asked_at), request.blocks * READ))
        number, held = server.begin(one, request, lease.slot, self.loop.time())
        reading = (request.blocks - held) * READ
        await asyncio.sleep(reading)
        one.waits.append(self.loop.time() - asked_at)
        await asyncio.sleep(request.tokens * WRITE)
        server.end(number, self.loop.time())
        return CacheReuse(request.blocks * BLOCK, held * BLOCK, reading)

    def _beside(self, since: float) -> float:
        """Tell for how long one slot was free while a request has waited."""
        now = self.loop.time()
        slots = (slot for server in self.servers.values() for slot in server.slots)
        return max(slot.unused(since, now) for slot in slots)


def mean_of(results: Sequence[Result], share: float, kind: str | None = None) -> float:
    """Average a quantile over runs."""
    return mean(
        quantile(r.every() if kind is None else r.first.get(kind, []), share) for r in results
    )
