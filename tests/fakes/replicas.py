"""Several balancers that share a store, before one server."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence

from tests.fakes.model_host import ModelHost, complete
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import Message, Visit, chat
from tests.fakes.valkey import Late, Valkey

REPLICAS = 3
LIMIT = 4


@contextlib.asynccontextmanager
async def replicas(
    host: ModelHost, store: Valkey | Late, count: int = REPLICAS, **settings: object
) -> AsyncIterator[list[Running]]:
    """Run some balancers before one server, which takes a few requests at once."""
    async with contextlib.AsyncExitStack() as stack:
        found = [
            await stack.enter_async_context(
                balancing(
                    {"A": host.limited(LIMIT)},
                    valkey_url=store.url,
                    queue_max=10_000,
                    **settings,  # type: ignore[arg-type]
                )
            )
            for _ in range(count)
        ]
        for balancer in found:
            await balancer.until(lambda b=balancer: knows(b, count))  # type: ignore[misc]
        yield found


async def knows(balancer: Running, count: int) -> bool:
    """Whether a replica knows how many there are."""
    store = (await balancer.snapshot())["store"]
    return bool(store["replicas"] == count and not store["away"])


async def ask_all(balancers: Sequence[Running], requests: int, at_once: int = 60) -> Counter[int]:
    """Send requests to all in turn, many at once; count the statuses."""
    statuses: Counter[int] = Counter()
    numbers = iter(range(requests))

    async def client() -> None:
        for number in numbers:
            balancer = balancers[number % len(balancers)]
            response = await balancer.ask(chat(address=f"10.0.0.{number % 50}"))
            statuses[response.status] += 1

    await asyncio.gather(*(client() for _ in range(at_once)))
    return statuses


class Gate:
    """A server that holds its responses back until it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.host = ModelHost(self._work)

    async def fill(self, balancer: Running, text: str = "hi") -> "list[asyncio.Task[Message]]":
        """Have a balancer send it as many requests as it takes, each beginning with a text."""
        asks = []
        for number in range(LIMIT):
            said = [{"role": "user", "content": f"{text}{number}"}]
            asks.append(balancer.ask(chat(address=f"10.0.0.{number}", messages=said)))
        held = [asyncio.create_task(ask) for ask in asks]
        await balancer.until(lambda: self.host.active == LIMIT)
        return held

    async def _work(self, visit: Visit, message: Message) -> bytes | None:
        await self.open.wait()
        return await complete(visit, message)


async def waits(balancer: Running) -> bool:
    return bool((await balancer.snapshot())["queue"]["waiting"])
