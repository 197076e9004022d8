"""Each server is probed by one of the balancers that share a store, and all know what it saw."""

import asyncio
import contextlib
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.e2e.test_swapping_servers import SwapHost
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import Message, Visit
from tests.fakes.valkey import PROGRAM, Valkey, valkey

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(PROGRAM is None, reason="neither valkey-server nor redis-server is here"),
]

LOOKS = 20


class Watched(SwapHost):
    """A server that tells what it is, and remembers which replica has probed it."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.probes: list[str] = []
        self.waiting: list[tuple[int, asyncio.Event]] = []

    async def show(self, visit: Visit, message: Message) -> bytes | None:
        self.probes.append(message["authorization"].removeprefix("Bearer "))
        for count, event in self.waiting:
            if len(self.probes) >= count:
                event.set()
        return await super().show(visit, message)

    async def next_probes(self) -> Counter[str]:
        """Count the next probes by who has sent them."""
        begun, enough = len(self.probes), asyncio.Event()
        self.waiting.append((begun + LOOKS, enough))
        await enough.wait()
        return Counter(self.probes[begun : begun + LOOKS])


def replica(name: str, host: Watched, store: Valkey) -> Any:
    """Run a balancer that the server knows by its key."""
    server = {"addr": f"http://127.0.0.1:{host.port}", "api_key": name}
    return balancing({"A": server}, valkey_url=store.url, models_interval=0.2)


@contextlib.asynccontextmanager
async def three(host: Watched, store: Valkey) -> AsyncIterator[dict[str, Running]]:
    """Run three of them."""
    async with contextlib.AsyncExitStack() as stack:
        found = {n: await stack.enter_async_context(replica(n, host, store)) for n in "xyz"}
        for each in found.values():
            await each.until(lambda r=each: knows_of(r, 3))
        yield found


async def knows_of(running: Running, count: int) -> bool:
    return bool((await running.snapshot())["store"]["replicas"] == count)


async def test_one_replica_probes_a_server_for_all() -> None:
    host = Watched()
    async with valkey() as store, host.running(), three(host, store):
        probes = await host.next_probes()

    assert max(probes.values()) >= 0.8 * LOOKS


async def test_what_one_has_seen_all_know() -> None:
    host = Watched()
    async with valkey() as store, host.running(), three(host, store) as replicas:
        host.models = ("a", "b", "new")
        host.loads, host.ready = ["new"], "new"
        for each in replicas.values():

            async def knows(each: Running = each) -> bool:
                told = (await each.snapshot())["backends"][0]
                return "new" in told["models"] and told["loaded"] == ["new"]

            await each.until(knows)
        probes = await host.next_probes()

    assert max(probes.values()) >= 0.8 * LOOKS


async def test_a_server_that_stops_is_down_for_all() -> None:
    host = Watched()
    async with valkey() as store:
        async with contextlib.AsyncExitStack() as stack:
            async with host.running():
                replicas = await stack.enter_async_context(three(host, store))
            for each in replicas.values():
                await each.until(lambda r=each: is_down(r))  # type: ignore[misc]


async def is_down(running: Running) -> bool:
    return await running.backends("status") == ["invalid"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
async def test_another_probes_once_the_one_that_did_is_gone() -> None:
    host = Watched()
    async with valkey() as store, host.running():
        with contextlib.suppress(AssertionError):  # one of them ends as it must not
            async with three(host, store) as replicas:
                [(first, _)] = (await host.next_probes()).most_common(1)
                gone = replicas.pop(first)
                gone.process.send_signal(signal.SIGKILL)
                await gone.process.wait()
                host.models = ("a", "new")
                for each in replicas.values():
                    await each.until(lambda r=each: lists(r, "new"))  # type: ignore[misc]


async def lists(running: Running, model: str) -> bool:
    return model in json.dumps(await running.backends("models"))


async def test_all_probe_while_the_store_is_away() -> None:
    host = Watched()
    async with valkey() as store, host.running(), three(host, store):
        await store.stop()
        while len(await host.next_probes()) < 3:
            continue
