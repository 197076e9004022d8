"""More models than memory: servers that load a model for whoever asks for it, and unload another.

They do as llama-swap does: requests go through one door in their order; one for another model
waits until what is at work has ended, and then for the load.
"""

import asyncio
import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from app.proxy import queue
from app.proxy.queue import RequestQueue
from app.routing.balancer import Balancer
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.observations import Introduced, ModelsSeen, SelfReport
from tests.fakes.kinds import LLAMA_SWAP
from tests.simulation.placing import placed
from tests.simulation.virtual_loop import VirtualLoop


@dataclass(frozen=True)
class Demand:
    """Who asks how often for what, all times in seconds."""

    models: int = 3
    clients: int = 4
    """Of each model, each with its next request after the response and a pause."""
    requests: int = 30
    """Of each client."""
    work: tuple[float, float] = (2.0, 8.0)
    pause: tuple[float, float] = (1.0, 20.0)
    load: float = 20.0
    """How long a model takes to load."""


@dataclass
class Swapped:
    """What came of it."""

    loads: int
    waits: list[float]
    """Seconds until the work on a request began."""
    longest_of: dict[str, float]
    """The longest wait for each model."""
    all_done: float
    """When the last response had ended, in seconds."""
    peak: int
    """The most that were at work on one server at once."""


@dataclass
class SwappingServer:
    """Has one model in memory."""

    name: str
    load: float
    loaded: str = ""
    starting: str = ""
    loads: int = 0
    active: int = 0
    peak: int = 0
    _door: asyncio.Lock = field(default_factory=asyncio.Lock)
    _quiet: asyncio.Event = field(default_factory=asyncio.Event)

    async def enter(self, model: str) -> None:
        """Wait until the model is in memory, and begin to work."""
        async with self._door:
            if model != self.loaded:
                if self.active:
                    self._quiet.clear()
                    await self._quiet.wait()
                self.loaded, self.starting = "", model
                await asyncio.sleep(self.load)
                self.loaded, self.starting = model, ""
                self.loads += 1
            self.active += 1
            self.peak = max(self.peak, self.active)

    def leave(self) -> None:
        """End the work."""
        self.active -= 1
        if not self.active:
            self._quiet.set()

    def report(self, now: float) -> SelfReport:
        return SelfReport(
            self.name,
            LLAMA_SWAP,
            loaded=frozenset(filter(None, [self.loaded])),
            starting=frozenset(filter(None, [self.starting])),
            asked_at=now,
        )


def swap(demand: Demand, servers: int, seed: int, limit: int = 4, **rules: Any) -> Swapped:
    """Have all clients ask for what they want; `rules` are the balancer's."""
    loop = VirtualLoop()
    with mock.patch.multiple(queue, monotonic=loop.time), contextlib.closing(loop):
        return loop.run_until_complete(_Swap(demand, servers, limit, loop, rules).play(seed))


class _Swap:
    def __init__(
        self, demand: Demand, servers: int, limit: int, loop: VirtualLoop, rules: dict[str, Any]
    ) -> None:
        self.demand, self.loop = demand, loop
        self.names = [f"m{number}" for number in range(demand.models)]
        self.servers = {f"PC{n}": SwappingServer(f"PC{n}", demand.load) for n in range(servers)}
        known = [Server(name, f"http://{name}", request_max=limit) for name in self.servers]
        self.balancer = Balancer(
            Fleet.of(known, {".*": [*self.servers]}), clock=loop.time, sticky_ttl=180.0, **rules
        )
        self.queue = RequestQueue(self.balancer, capacity=10_000, timeout=1e9)
        self.waits: dict[str, list[float]] = {name: [] for name in self.names}

    async def play(self, seed: int) -> Swapped:
        for server in self.servers.values():
            self.balancer.observe(ModelsSeen(server.name, self.names))
            self.balancer.observe(server.report(0.0))
            self.balancer.observe(Introduced(server.name))
        reporting = asyncio.create_task(self._report())
        await asyncio.gather(*self._clients(random.Random(seed)))
        reporting.cancel()
        servers = self.servers.values()
        return Swapped(
            sum(server.loads for server in servers),
            sorted(wait for waits in self.waits.values() for wait in waits),
            {name: max(waits) for name, waits in self.waits.items()},
            self.loop.time(),
            max(server.peak for server in servers),
        )

    def _clients(self, chance: random.Random) -> Iterator[Any]:
        for model in self.names:
            for number in range(self.demand.clients):
                yield self._ask(model, f"{model} {number}", random.Random(chance.random()))

    async def _report(self) -> None:
        while True:
            for server in self.servers.values():
                self.balancer.observe(server.report(self.loop.time()))
            await asyncio.sleep(1.0)

    async def _ask(self, model: str, client: str, chance: random.Random) -> None:
        demand = self.demand
        for _ in range(demand.requests):
            await asyncio.sleep(chance.uniform(*demand.pause))
            asked_at = self.loop.time()
            ask = Ask(model, (model,), client, client)
            lease = await placed(self.balancer, self.queue, ask)
            server = self.servers[lease.server]
            await server.enter(model)
            self.waits[model].append(self.loop.time() - asked_at)
            await asyncio.sleep(chance.uniform(*demand.work))
            server.leave()
            lease.succeeded = True
            lease.release()
