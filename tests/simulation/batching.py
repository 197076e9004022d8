"""Servers without slots, as vLLM's: they read prompts one after another, and write all at once.

Their memory holds so many blocks of prompts, and those unused for longest leave it.
"""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from app.proxy import queue
from app.routing.fleet import Server
from app.routing.ledger import Lease
from app.routing.observations import CacheReuse, SelfReport
from tests.fakes.kinds import VLLM
from tests.simulation.conversations import BLOCK, Conversation, Request
from tests.simulation.run import Play, Result
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


class _Batch(Play):
    def __init__(
        self,
        conversations: Sequence[Conversation],
        servers: int,
        memory: int,
        loop: VirtualLoop,
        rules: dict[str, Any],
    ) -> None:
        names = [f"PC{number}" for number in range(servers)]
        super().__init__(conversations, [Server(n, f"http://{n}") for n in names], loop, rules)
        self.servers = {name: BatchingServer(name, memory) for name in names}

    def peak(self) -> int:
        return max(server.peak for server in self.servers.values())

    def reports(self) -> Iterator[SelfReport]:
        for server in self.servers.values():
            yield SelfReport(server.name, VLLM, active=server.active, asked_at=self.loop.time())

    async def serve(
        self, lease: Lease, one: Conversation, request: Request, asked_at: float
    ) -> CacheReuse:
        server = self.servers[lease.server]
        held = await server.read(one, request)
        first = self.loop.time() - asked_at
        one.waits.append(first)
        await asyncio.sleep(request.tokens * WRITE)
        server.active -= 1
        return CacheReuse(request.blocks * BLOCK, held * BLOCK, first)
