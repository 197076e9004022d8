"""What changes a model server can be closed to clients."""

import json

import pytest

from tests.fakes.model_host import ModelHost
from tests.fakes.process import balancing
from tests.fakes.sockets import chat, post

pytestmark = pytest.mark.anyio

ORDERS = [b"/slots/0?action=erase", b"/models/unload", b"/api/delete", b"//sleep", b"/api%2Fpull"]


async def test_orders_to_a_server_are_closed_where_the_setting_says_so() -> None:
    host = ModelHost()
    async with host.running(), balancing({"A": host}, pass_control=False) as balancer:
        refused = [await balancer.ask(post(b"{}", path)) for path in ORDERS]
        assert (await balancer.ask(chat())).status == 200

    assert {response.status for response in refused} == {403}
    assert json.loads(refused[0].body)["error"]["type"] == "permission_error"
    assert len(host.seen) == 1


async def test_orders_to_a_server_are_passed_on_by_default() -> None:
    host = ModelHost()
    async with host.running(), balancing({"A": host}) as balancer:
        for path in ORDERS:
            assert (await balancer.ask(post(b"{}", path))).status == 200

    assert [message.start.split()[1].encode() for message in host.seen] == ORDERS
