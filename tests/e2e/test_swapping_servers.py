"""Servers that load one model at a time are not made to load in turn."""

import asyncio
import json
from collections.abc import Sequence

import pytest

from tests.fakes.model_host import ModelHost, complete
from tests.fakes.process import balancing
from tests.fakes.sockets import Message, Visit, chat, ok, post

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


class OllamaHost(SwapHost):
    """Behaves as Ollama does: a request for another context loads the model again."""

    async def work(self, visit: Visit, message: Message) -> bytes | None:
        context = str(json.loads(message.body)["options"]["num_ctx"])
        async with self._swapping:
            if self.ready != context:
                self.ready = ""
                self.loads.append(context)
                await asyncio.sleep(self._load_seconds)
                self.ready = context
        return ok(b'{"message":{"content":"hi"},"done":true}')

    async def show(self, visit: Visit, message: Message) -> bytes | None:
        if message.start.split()[1] != "/api/ps":
            return self.list_models(message)
        loaded = [{"name": "m", "model": "m", "context_length": int(self.ready or 0)}]
        return ok(json.dumps({"models": loaded if self.ready else []}).encode())


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


async def test_a_model_with_two_contexts_in_turn_is_loaded_once_with_each() -> None:
    one, two = OllamaHost(0.2, ["m"]), OllamaHost(0.2, ["m"])
    servers = {"A": one, "B": two}
    async with one.running(), two.running(), balancing(servers, routed_paths="all") as balancer:
        for number in range(12):
            options = {"num_ctx": (8192, 32768)[number % 2]}
            said = [{"role": "user", "content": "hi"}]
            body = {"model": "m", "messages": said, "stream": False, "options": options}
            address = f"x-forwarded-for: 10.0.0.{number}".encode()
            response = await balancer.ask(post(json.dumps(body).encode(), b"/api/chat", address))
            assert response.status == 200

    assert sorted(one.loads + two.loads) == ["32768", "8192"]


async def test_a_request_tells_how_long_its_model_was_loaded() -> None:
    host = SwapHost(0.6)
    async with host.running(), balancing({"A": host}, probe_interval=0.1) as balancer:
        for _ in range(2):
            await balancer.ask(chat("a"))
        ended = json.loads((await balancer.get("/llmhealth-requests")).body)["ended"]
        loaded = (await balancer.metrics("request_seconds_total"))['model="a",phase="load"']

    first, second = (one["load_seconds"] for one in ended)
    assert 0.3 < first < 0.9
    assert second == 0
    assert loaded == pytest.approx(first)
