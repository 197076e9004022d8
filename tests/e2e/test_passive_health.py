"""A server at which requests fail is left alone, and comes back by itself."""

import asyncio
import collections
import contextlib
import itertools
from collections.abc import AsyncIterator

import pytest

from tests.fakes.model_host import Handle, ModelHost, complete, status
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import Message, Visit, chat

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

REQUESTS = 1000
CLIENTS = 8


async def fails_500(visit: Visit, message: Message) -> bytes | None:
    return status(500)


async def fails_503(visit: Visit, message: Message) -> bytes | None:
    return status(503, body=b'{"error":{"message":"Loading model"}}')


async def fails_429(visit: Visit, message: Message) -> bytes | None:
    return status(429)


async def resets(visit: Visit, message: Message) -> bytes | None:
    visit.reset()
    return None


async def garbage(visit: Visit, message: Message) -> bytes | None:
    return b"what?\r\n\r\n"


async def mute(visit: Visit, message: Message) -> bytes | None:
    await visit.closed()
    return None


async def works(visit: Visit, message: Message) -> bytes | None:
    await asyncio.sleep(0.01)
    return await complete(visit, message)


@contextlib.asynccontextmanager
async def three(handle: Handle) -> AsyncIterator[tuple[list[ModelHost], Running]]:
    hosts = [ModelHost(handle), ModelHost(works), ModelHost(works)]
    async with contextlib.AsyncExitStack() as stack:
        for host in hosts:
            await stack.enter_async_context(host.running())
        servers = dict(zip("ABC", hosts, strict=True))
        yield hosts, await stack.enter_async_context(balancing(servers, first_byte_timeout=0.5))


async def play(balancer: Running, requests: int, net: int = 0) -> collections.Counter[int]:
    """Let several clients ask, one request after the other; count what they got."""
    statuses: collections.Counter[int] = collections.Counter()

    async def client(number: int) -> None:
        for _ in range(requests // CLIENTS):
            response = await balancer.ask(chat(address=f"10.0.{net}.{number}"))
            statuses[response.status] += 1

    await asyncio.gather(*map(client, range(CLIENTS)))
    return statuses


@pytest.mark.parametrize("fault", [fails_500, fails_503, fails_429, resets, garbage, mute])
async def test_a_server_that_fails_at_once_gets_hardly_anything(fault: Handle) -> None:
    async with three(fault) as (hosts, balancer):
        statuses = await play(balancer, REQUESTS)
        tried = len(hosts[0].seen)
        ejections = sum((await balancer.metrics("ejections_total")).values())
        told = (await balancer.snapshot())["backends"][0]

    assert tried <= 0.02 * REQUESTS
    assert sum(statuses.values()) - statuses[200] <= 0.01 * REQUESTS
    assert ejections >= 1
    assert told["status"] == told["changed"]["status"] == "ejected"


async def test_a_server_that_recovers_has_its_share_again() -> None:
    async with three(fails_500) as (hosts, balancer):
        await play(balancer, 200)
        hosts[0].handle = works
        nets = itertools.count(1)

        async def has_its_share() -> bool:
            before = [len(host.seen) for host in hosts]
            await play(balancer, 80, next(nets))  # nobody is pinned yet
            got = [len(host.seen) - n for host, n in zip(hosts, before, strict=True)]
            return got[0] >= 0.2 * sum(got)

        async with asyncio.timeout(10):
            while not await has_its_share():
                pass
        await balancer.until(lambda: balancer.returns())
        assert [line["server"] for line in balancer.returns()] == ["A"]


async def test_a_busy_server_s_request_goes_to_one_that_has_room_unseen() -> None:
    async with three(fails_503) as (hosts, balancer):
        response = await balancer.ask(chat())

        assert response.status == 200
        assert response["x-balancer-server"] != "A"
        assert sum((await balancer.metrics("retries_total")).values()) == len(hosts[0].seen) == 1


async def test_the_last_server_s_own_words_reach_the_client() -> None:
    async def busy(visit: Visit, message: Message) -> bytes | None:
        return status(429, b"retry-after: 7")

    host = ModelHost(busy)
    async with host.running(), balancing({"A": host}) as balancer:
        for _ in range(5):
            response = await balancer.ask(chat())
            assert (response.status, response["retry-after"]) == (429, "7")

    assert len(host.seen) == 5


async def test_a_server_that_asks_for_a_rest_gets_it() -> None:
    async def busy(visit: Visit, message: Message) -> bytes | None:
        return status(429, b"retry-after: 60")

    async with three(busy) as (hosts, balancer):
        assert await play(balancer, 80) == {200: 80}

        assert len(hosts[0].seen) <= CLIENTS


async def test_clients_mistakes_and_leaving_clients_eject_nobody() -> None:
    async def refuses(visit: Visit, message: Message) -> bytes | None:
        if b"leaves" in message.body:
            await visit.closed()
            return None
        return status(400)

    async with three(refuses) as (_, balancer):
        for _ in range(10):
            async with balancer.client() as client:
                await client.say(chat(leaves=True))
        await play(balancer, 80)

        assert sum((await balancer.metrics("ejections_total")).values()) == 0
