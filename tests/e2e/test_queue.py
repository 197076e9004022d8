"""Waits in the queue are told as they were, whatever they ended in."""

import asyncio

import pytest

from tests.fakes.model_host import ModelHost, complete
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import Message, Visit, chat

pytestmark = pytest.mark.anyio


async def hold(visit: Visit, message: Message) -> bytes | None:
    """Respond when the client has left, or after long."""
    if b"holds" in message.body:
        await visit.closed()
        return None
    return await complete(visit, message)


async def waits(balancer: Running) -> float:
    return (await balancer.metrics("queue_wait_seconds_sum"))['model="m"']


async def test_a_wait_that_ends_in_a_timeout_is_told() -> None:
    host = ModelHost(hold)
    async with host.running(), balancing({"A": host.limited(1)}, queue_timeout=0.3) as balancer:
        async with balancer.client() as client:
            await client.say(chat(holds=True))
            await balancer.until(lambda: host.active)
            response = await balancer.ask(chat())

            assert response.status == 503
            assert await waits(balancer) >= 0.29
            await balancer.until(lambda: balancer.events("request"))
            assert balancer.events("request")[-1]["queue_wait_ms"] >= 290


async def test_a_wait_that_ends_with_the_client_s_leaving_is_told() -> None:
    host = ModelHost(hold)
    async with host.running(), balancing({"A": host.limited(1)}) as balancer:
        async with balancer.client() as client:
            await client.say(chat(holds=True))
            await balancer.until(lambda: host.active)
            async with balancer.client() as leaver:
                await leaver.say(chat())
                await balancer.until(lambda: _waiting(balancer, 1))
                await asyncio.sleep(0.3)
            await balancer.until(lambda: _waiting(balancer, 0))

            assert await waits(balancer) >= 0.29
            await balancer.until(lambda: balancer.events("request"))
            line = balancer.events("request")[-1]
            assert (line["outcome"], line["queue_wait_ms"] >= 290) == ("client_disconnect", True)


async def test_a_wait_that_ends_with_a_place_is_told() -> None:
    host = ModelHost(hold)
    async with host.running(), balancing({"A": host.limited(1)}) as balancer:
        async with balancer.client() as client:
            await client.say(chat(holds=True))
            await balancer.until(lambda: host.active)
            asked = asyncio.ensure_future(balancer.ask(chat()))
            await balancer.until(lambda: _waiting(balancer, 1))
            await asyncio.sleep(0.3)
        assert (await asked).status == 200
        await balancer.until(lambda: len(balancer.events("request")) == 2)

        assert max(line["queue_wait_ms"] for line in balancer.events("request")) >= 290


async def test_forty_names_of_one_address_delay_another_by_one_request() -> None:
    served = []
    go = asyncio.Event()

    async def note(visit: Visit, message: Message) -> bytes | None:
        served.append(message["x-forwarded-for"].partition(",")[0])
        await go.wait()
        return await complete(visit, message)

    host = ModelHost(note)
    pattern = r"name is (\w+)"
    async with (
        host.running(),
        balancing({"A": host.limited(1)}, username_pattern=pattern) as balancer,
    ):
        asked = []
        for number in range(41):
            request = chat(client=f"name{number}", address="10.0.0.1")
            asked.append(asyncio.ensure_future(balancer.ask(request)))
        await balancer.until(lambda: _waiting(balancer, 40))
        asked.append(asyncio.ensure_future(balancer.ask(chat(address="10.0.0.2"))))
        await balancer.until(lambda: _waiting(balancer, 41))
        go.set()
        responses = await asyncio.gather(*asked)

    assert {response.status for response in responses} == {200}
    assert served.index("10.0.0.2") <= 2  # one was at work, one had come before


async def _waiting(balancer: Running, number: int) -> bool:
    told: dict[str, int] = (await balancer.snapshot())["queue"]
    return told["waiting"] == number
