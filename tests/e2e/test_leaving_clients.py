"""Clients that leave free their places, but not before their server has stopped."""

import asyncio
import contextlib
import os
import random

import pytest

from tests.fakes.model_host import ModelHost, complete, event, status
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import SSE, Message, Visit, chat

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

RACES = int(os.environ.get("BALANCER_LEAVERS", "3000"))
LATE = int(os.environ.get("BALANCER_LATE_LEAVERS", "60"))


async def until_left(visit: Visit, work: asyncio.Task[object]) -> bool:
    """Work until it is done, or until the client's end is seen; tell which."""
    left = asyncio.ensure_future(visit.reader.read(1))
    await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)
    done = work.done()
    for each in (work, left):
        each.cancel()
    with contextlib.suppress(asyncio.CancelledError, ConnectionError):
        await left
    return done


async def leave_after(balancer: Running, request: bytes, seconds: float) -> None:
    async with balancer.client() as client:
        await client.say(request)
        await asyncio.sleep(seconds)
        client.writer.transport.abort()


async def test_races_of_leaving_clients_never_pass_the_limit() -> None:
    """30 % leave at random moments; the server notices at once."""
    chance = random.Random(1)

    async def works(visit: Visit, message: Message) -> bytes | None:
        work = asyncio.ensure_future(asyncio.sleep(0.002))
        if not await until_left(visit, work):
            return None
        return await complete(visit, message)

    host = ModelHost(works)
    async with host.running():
        servers = {"A": host.limited(3)}
        async with balancing(servers, queue_max=1000, queue_timeout=60) as balancer:

            async def one(number: int) -> None:
                if chance.random() < 0.3:
                    await leave_after(balancer, chat(number=number), chance.uniform(0, 0.05))
                else:
                    assert (await balancer.ask(chat(number=number))).status == 200

            async def client(numbers: range) -> None:
                for number in numbers:
                    await one(number)

            each = RACES // 50
            await asyncio.gather(*(client(range(n * each, (n + 1) * each)) for n in range(50)))
            await balancer.until(lambda: _free(balancer))

    assert host.peak <= 3


async def test_a_server_that_is_late_to_stop_gets_no_more_than_its_limit() -> None:
    """It looks for its clients only a second after they have left."""

    async def works(visit: Visit, message: Message) -> bytes | None:
        if not await until_left(visit, asyncio.ensure_future(asyncio.sleep(30))):
            await asyncio.sleep(1.0)
        return None

    host = ModelHost(works)
    async with host.running():
        async with balancing({"A": host.limited(2)}, queue_timeout=60) as balancer:
            for _ in range(LATE // 10):
                await asyncio.gather(*(leave_after(balancer, chat(), 0.05) for _ in range(10)))
            assert sum(await balancer.backends("lingering")) == host.active
            assert (await balancer.metrics("leases_lingering"))['server="A"'] == host.active
            await balancer.until(lambda: _free(balancer))

    assert host.peak <= 2


async def test_who_asks_the_same_again_waits_for_its_place_and_nobody_else_does() -> None:
    stop = asyncio.Event()

    async def works(visit: Visit, message: Message) -> bytes | None:
        if stop.is_set() or b"long" not in message.body:
            return await complete(visit, message)
        await stop.wait()
        return None

    hosts = [ModelHost(works), ModelHost(works)]
    request = chat(messages=[{"role": "user", "content": "long " * 100}])
    async with hosts[0].running(), hosts[1].running():
        servers = {name: host.limited(1) for name, host in zip("AB", hosts, strict=True)}
        async with balancing(servers, cancel_timeout=30) as balancer:
            async with balancer.client() as client:
                await client.say(request)
                await balancer.until(lambda: hosts[0].active)
                client.writer.transport.abort()
            await balancer.until(lambda: _lingers(balancer))
            again = asyncio.ensure_future(balancer.ask(request))
            await balancer.until(lambda: _waits(balancer))
            other = await balancer.ask(chat(messages=[{"role": "user", "content": "else " * 100}]))
            stop.set()
            response = await again

    assert other["x-balancer-server"] == "B"
    assert response["x-balancer-server"] == "A"
    assert response["x-balancer-reason"] == "cached_prompt"


async def _lingers(balancer: Running) -> bool:
    lingering: list[int] = await balancer.backends("lingering")
    return sum(lingering) == 1


async def _waits(balancer: Running) -> bool:
    queue: dict[str, int] = (await balancer.snapshot())["queue"]
    return queue["waiting"] == 1


async def test_a_place_is_free_as_soon_as_the_server_has_closed() -> None:
    async def works(visit: Visit, message: Message) -> bytes | None:
        if b"leaves" in message.body:
            await visit.closed()
            return None
        return await complete(visit, message)

    host = ModelHost(works)
    async with host.running():
        async with balancing({"A": host.limited(1)}, cancel_timeout=30) as balancer:
            await leave_after(balancer, chat(leaves=True), 0.05)
            async with asyncio.timeout(5):
                assert (await balancer.ask(chat())).status == 200


async def test_a_place_is_free_as_soon_as_the_slots_say_so() -> None:
    """The server never closes the connection; its slots tell that it has stopped."""
    busy = False

    async def works(visit: Visit, message: Message) -> bytes | None:
        nonlocal busy
        if b"leaves" in message.body:
            busy = True
            await visit.reader.read(1)
            busy = False
            await asyncio.sleep(60)
        return await complete(visit, message)

    async def probe(visit: Visit, message: Message) -> bytes | None:
        match message.start.split()[1]:
            case "/props":
                return status(200, body=b'{"total_slots":1}')
            case "/slots":
                shown = b"true" if busy else b"false"
                return status(200, body=b'[{"id":0,"is_processing":%b}]' % shown)
        return host.list_models(message)

    host = ModelHost(works, probe=probe)
    async with host.running(), balancing({"A": host}, cancel_timeout=30) as balancer:
        await balancer.until(lambda: _limit(balancer, 1))
        await leave_after(balancer, chat(leaves=True), 0.05)
        async with asyncio.timeout(5):
            assert (await balancer.ask(chat())).status == 200


async def test_a_server_that_goes_on_sending_is_told_by_a_reset() -> None:
    told = asyncio.Event()

    async def streams(visit: Visit, message: Message) -> bytes | None:
        await visit.say(SSE)
        try:
            while True:
                await visit.say(event())
                await asyncio.sleep(0.01)
        except ConnectionError:
            told.set()
            raise

    host = ModelHost(streams)
    async with host.running(), balancing({"A": host}) as balancer:
        await leave_after(balancer, chat(stream=True), 0.1)
        async with asyncio.timeout(2):
            await told.wait()
        await balancer.until(lambda: _free(balancer))


async def test_a_server_that_timed_out_may_still_be_at_work() -> None:
    async def works(visit: Visit, message: Message) -> bytes | None:
        await visit.closed()
        await asyncio.sleep(0.5)
        return None

    host = ModelHost(works)
    async with host.running():
        servers = {"A": host.limited(1)}
        async with balancing(servers, first_byte_timeout=0.2, queue_timeout=10) as balancer:
            responses = await asyncio.gather(*(balancer.ask(chat()) for _ in range(4)))

    assert {response.status for response in responses} == {504}
    assert host.peak == 1


async def _free(balancer: Running) -> bool:
    return await balancer.in_flight() == 0


async def _limit(balancer: Running, limit: int) -> bool:
    return await balancer.backends("request_max") == [limit]
