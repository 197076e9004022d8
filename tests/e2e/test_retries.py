"""A request that a server may have acted on is delivered once; one that it cannot have seen, again.

`BALANCER_RACES` and `BALANCER_DEATHS` say how many are tried (`make soak`: all of the bar).
"""

import asyncio
import collections
import contextlib
import json
import os
import random
import re
import sys

import pytest

from tests.fakes.model_host import ModelHost, complete
from tests.fakes.ports import free_port
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import Message, Visit, chat, get, post

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

DEATHS = int(os.environ.get("BALANCER_DEATHS", "48"))
RACES = int(os.environ.get("BALANCER_RACES", "2000"))


def number_of(message: Message) -> int:
    number: int = json.loads(message.body).get("number", -1)
    return number


async def warm(balancer: Running, connections: int = 6) -> None:
    """Leave kept connections to the servers."""
    await asyncio.gather(
        *(balancer.ask(chat(address=f"10.0.0.{n}", hold=True)) for n in range(connections))
    )


@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("after", [0.0, 0.05, 0.3])
async def test_a_request_that_its_server_dies_of_is_delivered_once(
    ending: str, after: float
) -> None:
    delivered: collections.Counter[int] = collections.Counter()

    async def dies(visit: Visit, message: Message) -> bytes | None:
        if b"kills" in message.body:
            delivered[number_of(message)] += 1
            await asyncio.sleep(after)
            if ending == "reset":
                visit.reset()
            return None
        if b"hold" in message.body:
            await asyncio.sleep(0.02)  # so that the others take connections of their own
        return await complete(visit, message)

    hosts = [ModelHost(dies) for _ in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        for host in hosts:
            await stack.enter_async_context(host.running())
        servers = dict(zip("ABC", hosts, strict=True))
        balancer = await stack.enter_async_context(balancing(servers))
        for number in range(DEATHS // 6):
            await warm(balancer)
            response = await balancer.ask(chat(number=number, kills=True))
            assert response.status == 502

    assert delivered == collections.Counter(dict.fromkeys(range(DEATHS // 6), 1))


async def test_a_server_that_stops_listening_when_it_dies_does_not_pass_its_death_on() -> None:
    delivered = 0

    async def dies(visit: Visit, message: Message) -> bytes | None:
        nonlocal delivered
        if b"kills" in message.body:
            delivered += 1
            down.set()
            return None
        return await complete(visit, message)

    down = asyncio.Event()
    a, b = ModelHost(dies), ModelHost(dies)
    async with b.running(), contextlib.AsyncExitStack() as listening:
        await listening.enter_async_context(a.running())
        async with balancing({"A": a, "B": b}) as balancer:
            await warm(balancer)
            asked = asyncio.ensure_future(balancer.ask(chat(kills=True)))
            await down.wait()
            await listening.aclose()
            response = await asked

    assert response.status == 502
    assert delivered == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what was acknowledged")
@pytest.mark.parametrize("keep_alive", [0.15, 0.5])
async def test_the_end_of_a_kept_connection_is_invisible(keep_alive: float) -> None:
    """Requests arrive at the moment in which the server closes the connection."""
    delivered: collections.Counter[int] = collections.Counter()

    async def count(visit: Visit, message: Message) -> bytes | None:
        delivered[number_of(message)] += 1
        asyncio.get_running_loop().call_later(keep_alive, close_if_idle, visit, len(delivered))
        served[visit] = len(delivered)
        return await complete(visit, message)

    def close_if_idle(visit: Visit, since: int) -> None:
        unread = visit.reader._buffer  # type: ignore[attr-defined]  # nobody else tells of it
        if served[visit] == since and not unread:
            visit.writer.close()

    served: dict[Visit, int] = {}
    host = ModelHost(count)
    chance = random.Random(1)
    async with host.running(), balancing({"A": host}) as balancer:

        async def at_the_end(numbers: range) -> list[int]:
            statuses = []
            async with balancer.client() as client:
                for number in numbers:
                    await client.say(chat(number=number))
                    statuses.append((await client.message()).status)
                    # Around the closing: a little before, at, and after it.
                    await asyncio.sleep(max(0.0, keep_alive + chance.uniform(-0.003, 0.003)))
            return statuses

        share = RACES // 2 // 50
        numbers = [range(n * share, (n + 1) * share) for n in range(50)]
        statuses = await asyncio.gather(*map(at_the_end, numbers))

    assert {status for each in statuses for status in each} == {200}
    assert delivered == collections.Counter(dict.fromkeys(range(50 * share), 1))


@pytest.mark.parametrize(("method", "times"), [(b"GET", 2), (b"DELETE", 2), (b"POST", 1)])
async def test_only_what_may_be_repeated_is_repeated_when_a_kept_connection_is_lost(
    method: bytes, times: int
) -> None:
    seen = 0

    async def drops(visit: Visit, message: Message) -> bytes | None:
        nonlocal seen
        if b"/v1/files" not in message.start.encode():
            return host.list_models(message) if message.start.startswith("GET") else None
        seen += 1
        return None

    host = ModelHost(drops, probe=drops)
    async with host.running(), balancing({"A": host}) as balancer:
        await balancer.ask(get(b"/other"))  # leaves a kept connection
        await balancer.ask(get(b"/v1/files/1", method=method))

    assert seen == times


async def test_a_large_body_that_its_server_dies_of_is_delivered_once() -> None:
    delivered = 0

    async def dies(visit: Visit, message: Message) -> bytes | None:
        nonlocal delivered
        if b"kills" in message.body:
            delivered += 1
            visit.reset()
            return None
        return await complete(visit, message)

    hosts = [ModelHost(dies), ModelHost(dies)]
    async with hosts[0].running(), hosts[1].running():
        async with balancing(dict(zip("AB", hosts, strict=True))) as balancer:
            await warm(balancer)
            body = json.dumps({"model": "m", "kills": True, "image": "x" * 4_000_000}).encode()
            response = await balancer.ask(post(body))

    assert response.status == 502
    assert delivered == 1


async def test_the_error_names_every_server_that_was_tried() -> None:
    servers = {name: {"addr": f"http://127.0.0.1:{free_port()}"} for name in ("A", "B")}
    async with balancing(servers, ready=False) as balancer:
        response = await balancer.ask(chat())

    assert response.status == 502
    assert re.search(
        r"server (A|B): it refuses connections; before it (A|B) failed as well",
        response.body.decode(),
    )
