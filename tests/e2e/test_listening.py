"""Where the balancer listens."""

import asyncio
import socket

import pytest

from tests.fakes.model_host import ModelHost
from tests.fakes.process import balancing
from tests.fakes.sockets import Visit, chat

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6"),
]


async def test_all_addresses_of_ipv6_are_those_of_ipv4_too() -> None:
    host = ModelHost()
    async with host.running(), balancing({"A": host}, host="::", insecure=True) as balancer:
        for address in ("127.0.0.1", "::1"):
            visit = Visit(*await asyncio.open_connection(address, balancer.port))
            await visit.say(chat())
            assert (await visit.message()).status == 200
            visit.writer.close()
        await balancer.until(lambda: len(balancer.events("request")) == 2)
        clients = [line["client"] for line in balancer.events("request")]

    assert clients == ["127.0.0.1", "::1"]
    assert host.seen[0]["x-forwarded-for"] == "127.0.0.1"
