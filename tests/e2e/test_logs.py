"""Who reads the log, or does not, changes nothing for clients."""

import asyncio
import json
import os

import pytest

from tests.fakes.model_host import ModelHost
from tests.fakes.process import balancing
from tests.fakes.sockets import chat

pytestmark = pytest.mark.anyio

REQUESTS = 3000
"""Their lines are more than a pipe holds, which is 64 KiB on Linux."""


async def test_a_log_reader_that_stalls_holds_up_no_request_and_no_end() -> None:
    reading, writing = os.pipe()
    host = ModelHost()
    async with host.running(), balancing({"A": host}, log=writing) as balancer:
        async with balancer.client() as client:
            for _ in range(REQUESTS):
                await client.say(chat())
                assert (await client.message()).status == 200
    os.close(writing)
    os.close(reading)


async def test_a_log_reader_that_is_gone_changes_no_exit_status() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    host = ModelHost()
    async with host.running(), balancing({"A": host}, log=writing) as balancer:
        assert (await balancer.ask(chat())).status == 200
    os.close(writing)


async def test_a_log_reader_that_is_late_misses_nothing_that_fits() -> None:
    reading, writing = os.pipe()
    host = ModelHost()
    async with host.running(), balancing({"A": host}, log=writing) as balancer:
        os.close(writing)
        async with balancer.client() as client:
            for _ in range(500):
                await client.say(chat())
                await client.message()
        text = b""
        while text.count(b'"event":"request"') < 500:
            text += await asyncio.to_thread(os.read, reading, 65536)
    os.close(reading)

    lines = [json.loads(line) for line in text.splitlines() if b'"event":"request"' in line]
    assert len({line["id"] for line in lines}) == 500
