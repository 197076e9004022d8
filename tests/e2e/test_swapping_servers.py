"""Servers that load one model at a time are not made to load in turn."""

import asyncio
import json
from collections.abc import Sequence

import pytest

from tests.fakes.model_host import ModelHost, complete
from tests.fakes.process import balancing
from tests.fakes.sockets import Message, Visit, chat, ok

pytestmark = pytest.mark.anyio


class SwapHost(ModelHost):
    """Behaves as llama-swap does: a request for another model than the one in memory loads it."""

    def __init__(self, load_seconds: float, models: Sequence[str] = ("a", "b")) -> None:
        super().__init__(self.work, models, probe=self.show)
        self.loads: list[str] = []
        self.ready = ""
        self._load_seconds = load_seconds
        self._swapping = asyncio.Lock()

    async def work(self, visit: Visit, message: Message) -> bytes | None:
        model = json.loads(message.body)["model"]
        async with self._swapping:
            if self.ready != model:
                self.ready = ""
                self.loads.append(model)
                await asyncio.sleep(self._load_seconds)
                self.ready = model
        return await complete(visit, message)

    async def show(self, visit: Visit, message: Message) -> bytes | None:
        if message.start.split()[1] != "/running":
            return self.list_models(message)
        state = "ready" if self.ready else "starting"
        running = [{"model": name, "state": state} for name in self.loads[-1:]]
        return ok(json.dumps({"running": running}).encode())


async def test_two_models_in_turn_are_loaded_once_each() -> None:
    one, two = SwapHost(0.2), SwapHost(0.2)
    async with one.running(), two.running(), balancing({"A": one, "B": two}) as balancer:
        for number in range(12):
            response = await balancer.ask(chat("ab"[number % 2], address=f"10.0.0.{number}"))
            assert response.status == 200

    assert sorted(one.loads + two.loads) == ["a", "b"]


async def test_a_model_that_is_being_loaded_is_waited_for_where_it_is() -> None:
    one, two = SwapHost(1.0), SwapHost(1.0)
    async with one.running(), two.running(), balancing({"A": one, "B": two}) as balancer:
        await asyncio.gather(*(balancer.ask(chat("a", address=f"10.0.0.{n}")) for n in range(6)))

    assert one.loads + two.loads == ["a"]


async def test_a_burst_for_three_models_loads_each_of_them_once() -> None:
    hosts = {name: SwapHost(0.3, ["a", "b", "c"]) for name in "AB"}
    one, two = hosts.values()
    async with one.running(), two.running():
        servers = {name: host.limited(2) for name, host in hosts.items()}
        async with balancing(servers, queue_timeout=60, probe_interval=0.2) as balancer:
            responses = await asyncio.gather(
                *(balancer.ask(chat("abc"[n % 3], address=f"10.0.0.{n}")) for n in range(30))
            )

    assert {response.status for response in responses} == {200}
    assert sorted(one.loads + two.loads) == ["a", "b", "c"]
    assert max(one.peak, two.peak) <= 2
