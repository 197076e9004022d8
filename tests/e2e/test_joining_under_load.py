"""Twenty machines join, leave, crash, are cut off and come back, while thirty clients ask.

`BALANCER_MACHINE_SECONDS` says for how long (`make soak`: two minutes). That a machine which says
nothing gets nothing after 15 s shows only where it lasts for longer.
"""

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.fakes.model_host import ModelHost, complete
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import Message, Visit, bearer, chat, post

SECONDS = int(os.environ.get("BALANCER_MACHINE_SECONDS", "3"))
MACHINES = 20
CLIENTS = 30
TOKEN = "what-machines-show"
RENEWAL, SILENCE = 5.0, 15.0
LATE = 1.0
"""Seconds by which a busy machine may be late to notice."""

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(2 * SECONDS + 100)]


class Machine:
    """A machine with one server, which has a model of its own and one that all have."""

    def __init__(self, number: int) -> None:
        self.name = f"pc{number}"
        self.model = f"m{number}"
        self.host = ModelHost(self._handle, ("m", self.model))
        self.heard_at = 0.0
        """When the balancer has heard of it last."""
        self.latest = 0.0
        """How long after that it got a request, at the most, while it was cut off."""
        self.is_cut_off = False

    async def _handle(self, visit: Visit, message: Message) -> bytes | None:
        if self.is_cut_off:
            self.latest = max(self.latest, asyncio.get_running_loop().time() - self.heard_at)
        await asyncio.sleep(0.005)  # as long as a model takes
        return await complete(visit, message)

    async def join(self, balancer: Running) -> None:
        """Join, or say that it is still there."""
        body = json.dumps({"servers": {self.name: self.host.limited(1)}}).encode()
        self.heard_at = asyncio.get_running_loop().time()
        response = await self._tell(balancer, b"PUT", body)
        assert response.status == 200, response.body

    async def leave(self, balancer: Running) -> None:
        await self._tell(balancer, b"DELETE")

    async def _tell(self, balancer: Running, method: bytes, body: bytes = b"") -> Message:
        path = f"/llmhealth-join/{self.name}".encode()
        return await balancer.ask(method + post(body, path, bearer(TOKEN))[4:])

    async def be_there(self, balancer: Running, seconds: float) -> None:
        """Join, be found within 2 s, and stay for a while."""
        await self.join(balancer)
        async with asyncio.timeout(2):
            response = await balancer.ask(chat(self.model))
        assert response["x-balancer-server"] == self.name, response.body
        while seconds > 0:
            await asyncio.sleep(min(seconds, RENEWAL))
            seconds -= RENEWAL
            await self.join(balancer)

    async def live(self, balancer: Running, chance: random.Random, ends: float) -> None:
        """Come and go in all ways until a time."""
        loop = asyncio.get_running_loop()
        while loop.time() < ends:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self.host.running(self.host.port))
                await self.be_there(balancer, chance.uniform(0, SECONDS / 5))
                match chance.choice(["leave", "crash", "cut off"]):
                    case "leave":
                        await self.leave(balancer)
                    case "cut off":
                        self.is_cut_off = True
                        await asyncio.sleep(min(SILENCE + 3, max(0, ends - loop.time())))
                        self.is_cut_off = False
            await asyncio.sleep(chance.uniform(0, SECONDS / 10))


@asynccontextmanager
async def asked(balancer: Running) -> AsyncIterator[list[int]]:
    """Ask for what all have, and gather the statuses."""
    stop = asyncio.Event()
    statuses: list[int] = []

    async def ask() -> None:
        async with balancer.client() as client:
            while not stop.is_set():
                await client.say(chat())
                statuses.append((await client.message()).status)

    asking = [asyncio.create_task(ask()) for _ in range(CLIENTS)]
    try:
        yield statuses
    finally:
        stop.set()
        await asyncio.gather(*asking)


async def test_no_limit_is_passed_and_nobody_is_asked_who_is_gone() -> None:
    chance = random.Random(18)
    machines = [Machine(number) for number in range(MACHINES)]
    steady = ModelHost()
    async with (
        steady.running(),
        balancing(
            {"A": steady.limited(1)}, join_token=TOKEN, insecure=True, queue_max=1000
        ) as balancer,
        asked(balancer) as statuses,
    ):
        ends = asyncio.get_running_loop().time() + SECONDS
        await asyncio.gather(*(machine.live(balancer, chance, ends) for machine in machines))

    assert {host.peak for host in (steady, *(machine.host for machine in machines))} == {1}
    assert max(machine.latest for machine in machines) <= SILENCE + LATE
    failed = [status for status in statuses if status != 200]
    # A request may be at work on a machine that crashes; it must not be sent twice.
    assert set(failed) <= {502}
    assert len(failed) <= len(statuses) / 50
    assert len(statuses) > 100 * SECONDS
