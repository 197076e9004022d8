"""Servers without slots, as vLLM's: they read prompts one after another, and write all at once.

Their memory holds so many blocks of prompts, and those unused for longest leave it.
"""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from app.proxy import queue
from app.proxy.queue import RequestQueue
from app.routing.balancer import Balancer
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.observations import CacheReuse, Introduced, ModelsSeen, SelfReport
from tests.fakes.kinds import VLLM
from tests.simulation.conversations import BLOCK, Conversation, Request
from tests.simulation.placing import placed
from tests.simulation.run import MODEL, Result
from tests.simulation.servers import READ, WRITE
from tests.simulation.virtual_loop import VirtualLoop


@dataclass
class BatchingServer:
    """Holds `memory` blocks of prompts, those at work included."""

    name: str
    memory: int
    active: int = 0
    peak: int = 0
    _kept: dict[str, int] = field(default_factory=dict)  # by conversation, the last one behind
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def read(self, conversation: Conversation, request: Request) -> int:
        """Read a prompt when its turn has come; return how many blocks were cached."""
        self.active += 1
        self.peak = max(self.peak, self.active)
        async with self._reading:
            held = min(request.shared, self._kept.pop(conversation.name, 0))
            if not held and self._kept:
                held = min(conversation.system, request.blocks)
            self._kept[conversation.name] = request.blocks
            while sum(self._kept.values()) > self.memory and len(self._kept) > 1:
                del self._kept[next(iter(self._kept))]
            await asyncio.sleep((request.blocks - held) * READ)
        return held


def batch(
    conversations: Sequence[Conversation], servers: int, memory: int, seed: int, **rules: Any
) -> Result:
    """Play all conversations to their ends; `rules` are the balancer's."""
    loop = VirtualLoop()
    with mock.patch.multiple(queue, monotonic=loop.time), contextlib.closing(loop):
        play = _Batch(conversations, servers, memory, loop, rules)
        return loop.run_until_complete(play.play(seed))


class _Batch:
    def __init__(
        self,
        conversations: Sequence[Conversation],
        servers: int,
        memory: int,
        loop: VirtualLoop,
        rules: dict[str, Any],
    ) -> None:
        self.loop = loop
        self.conversations = conversations
        self.servers = {f"PC{n}": BatchingServer(f"PC{n}", memory) for n in range(servers)}
        known = [Server(name, f"http://{name}") for name in self.servers]
        self.balancer = Balancer(
            Fleet.of(known, {".*": [*self.servers]}), clock=loop.time, sticky_ttl=180.0, **rules
        )
        self.queue = RequestQueue(self.balancer, capacity=10_000, timeout=1e9)
        self.cached = self.prompts = 0

    async def play(self, seed: int) -> Result:
        for name in self.servers:
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
        peak = max(server.peak for server in self.servers.values())
        return Result(self.cached / self.prompts, first, self.loop.time(), peak, [])

    async def _report(self) -> None:
        while True:
            for server in self.servers.values():
                self.balancer.observe(
                    SelfReport(server.name, VLLM, active=server.active, asked_at=self.loop.time())
                )
            await asyncio.sleep(1.0)

    async def _talk(self, one: Conversation, begin: float) -> None:
        await asyncio.sleep(begin)
        for request in one.requests:
            await asyncio.sleep(request.pause)
            asked_at = self.loop.time()
            ask = Ask(MODEL, (MODEL,), one.name, one.name, request.prompt)
            lease = await placed(self.balancer, self.queue, ask)
            server = self.servers[lease.server]
            held = await server.read(one, request)
            self.cached += held
            self.prompts += request.blocks
            one.waits.append(self.loop.time() - asked_at)
            await asyncio.sleep(request.tokens * WRITE)
            server.active -= 1
            lease.succeeded = True
            lease.reuse = CacheReuse(request.blocks * BLOCK, held * BLOCK, one.waits[-1])
            lease.release()
