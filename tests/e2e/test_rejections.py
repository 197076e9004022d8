"""What is no request leaves a line in the log."""

import pytest

from tests.fakes.process import balancing

pytestmark = pytest.mark.anyio


async def test_a_client_that_does_not_speak_http_is_logged_with_its_address() -> None:
    async with balancing({"A": {"addr": "http://127.0.0.1:9"}}, ready=False) as running:
        assert (await running.ask(b"\x16\x03\x01\x02\x00\x01\x00\x01")).status == 400
        await running.until(lambda: running.events("client.rejected"))
        lines = running.events("client.rejected")

    assert [(x["client"], x["status"], x["reason"]) for x in lines] == [
        ("127.0.0.1", 400, "this is not HTTP")
    ]
