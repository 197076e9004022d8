"""What the store does in one step, in a real one."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis.asyncio import Redis

from app.store.scripts import ENTER, RENEW
from tests.fakes.valkey import PROGRAM, valkey

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(PROGRAM is None, reason="neither valkey-server nor redis-server is here"),
]

LIMIT = 2
Ask = Callable[[str, str], Awaitable[list[int | str]]]


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    """Give what asks for a place, for a replica and by the name of a lease."""
    async with valkey() as store:
        client = Redis.from_url(store.url, decode_responses=True)
        enter, renew = client.register_script(ENTER), client.register_script(RENEW)
        await renew(keys=["replicas", "begun"], args=["a/", 10_000, 1])

        async def ask(replica: str, lease: str) -> list[int | str]:
            args: list[str | int] = [replica, replica + lease, LIMIT, 10_000, 2500]
            found: list[int | str] = await enter(keys=["leases", "begun"], args=args)
            return found

        yield ask
        await client.aclose()


async def test_as_many_places_are_given_as_there_are_and_others_are_counted(ask: Ask) -> None:
    assert [await ask("a/", "1"), await ask("b/", "1"), await ask("b/", "2")] == [
        [1, 0],
        [1, 1],
        [0, 1],
    ]


async def test_a_slot_of_another_replica_is_not_given_and_told(ask: Ask) -> None:
    await ask("a/", "1#0")

    assert await ask("b/", "1#0") == [0, 1, "0"]
    assert await ask("b/", "2#1") == [1, 1, "0"]


async def test_a_slot_of_its_own_is_for_a_replica_to_give(ask: Ask) -> None:
    await ask("a/", "1#0")

    assert await ask("a/", "2#0") == [1, 0]


async def test_a_store_that_has_forgotten_all_cannot_say() -> None:
    async with valkey() as store:
        client = Redis.from_url(store.url, decode_responses=True)
        enter = client.register_script(ENTER)
        told = await enter(keys=["leases", "begun"], args=["a/", "a/1", LIMIT, 10_000, 2500])
        await client.aclose()

    assert told[0] == -1
