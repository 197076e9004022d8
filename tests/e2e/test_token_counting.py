"""Counting tokens makes no model work: it goes to the model's server, and takes no place there."""

import json

import pytest

from tests.fakes.model_host import ModelHost, complete
from tests.fakes.process import balancing
from tests.fakes.sockets import Message, Visit, chat, ok, post

pytestmark = pytest.mark.anyio

PATH = b"/v1/messages/count_tokens"
ROUTED = f"/v1/chat/completions,{PATH.decode()}"


def counting(model: str = "m") -> bytes:
    return post(json.dumps({"model": model, "messages": []}).encode(), PATH)


async def handle(visit: Visit, message: Message) -> bytes | None:
    """Count at once; hold everything else until the client has left."""
    if PATH.decode() in message.start:
        return ok(b'{"input_tokens":7}')
    if b"holds" in message.body:
        await visit.closed()
        return None
    return await complete(visit, message)


async def test_a_count_passes_a_server_that_is_full() -> None:
    host = ModelHost(handle)
    async with (
        host.running(),
        balancing({"A": host.limited(1)}, routed_paths=ROUTED) as balancer,
        balancer.client() as client,
    ):
        await client.say(chat(holds=True))
        await balancer.until(lambda: host.active)
        response = await balancer.ask(counting())

        assert (response.status, response.body) == (200, b'{"input_tokens":7}')
        assert response["x-balancer-reason"] == "no_place"
        assert await balancer.in_flight() == 1


async def test_a_count_goes_to_a_server_that_has_the_model() -> None:
    a, b = ModelHost(handle, ["a"]), ModelHost(handle, ["b"])
    servers = {"A": a, "B": b}
    async with a.running(), b.running(), balancing(servers, routed_paths=ROUTED) as balancer:
        assert (await balancer.ask(counting("b"))).status == 200

    assert (a.asked_for, b.asked_for) == ([], ["b"])


async def test_a_count_goes_elsewhere_where_a_server_turns_it_away() -> None:
    async def refuse(visit: Visit, message: Message) -> bytes | None:
        return b"HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n"

    a, b = ModelHost(refuse), ModelHost(handle)
    servers = {"A": a, "B": b}
    async with a.running(), b.running(), balancing(servers, routed_paths=ROUTED) as balancer:
        assert (await balancer.ask(counting())).status == 200

    assert (len(a.seen), len(b.seen)) == (1, 1)
