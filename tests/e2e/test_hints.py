"""Clients that say which servers they would like."""

import json

import pytest

from tests.fakes.model_host import ModelHost
from tests.fakes.process import balancing
from tests.fakes.sockets import bearer, post

pytestmark = pytest.mark.anyio

HEADERS = ("x-balancer-prefer", "x-balancer-avoid")

BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'

ALICE, BOB = "sk-alice-0123456789", "sk-bob-0123456789abc"

KEYS = {"alice": {"key": ALICE, "hints": True}, "bob": BOB}


def asking(*headers: bytes, path: bytes = b"/v1/chat/completions") -> bytes:
    return post(BODY, path, *headers)


async def test_a_hint_is_heeded_and_goes_no_further() -> None:
    one, two = ModelHost(), ModelHost()
    async with one.running(), two.running(), balancing({"PC1": one, "PC2": two}) as balancer:
        for header, server in (
            (b"x-balancer-prefer: PC2", "PC2"),
            (b"x-balancer-prefer: PC1", "PC1"),
            (b"x-balancer-avoid: PC1", "PC2"),
        ):
            response = await balancer.ask(asking(header))
            assert (response.status, response["x-balancer-server"]) == (200, server)

        unknown = await balancer.ask(asking(b"x-balancer-prefer: PC9"))
        explained = await balancer.ask(
            asking(b"x-balancer-prefer: PC2", path=b"/llmhealth-explain")
        )

    assert json.loads(explained.body)["choice"]["server"] == "PC2"
    assert unknown.status == 400
    assert json.loads(unknown.body)["error"]["message"] == (
        'x-balancer-prefer names no server: "PC9"; there are PC1, PC2'
    )
    seen = [*one.seen, *two.seen]
    assert len(seen) == 3
    assert not any(name in message for message in seen for name in HEADERS)


async def test_with_api_keys_a_hint_takes_one_that_allows_it() -> None:
    one, two = ModelHost(), ModelHost()
    async with (
        one.running(),
        two.running(),
        balancing({"PC1": one, "PC2": two}, ready=False, api_keys=json.dumps(KEYS)) as balancer,
    ):
        statuses = []
        for key in (ALICE, BOB):
            response = await balancer.ask(asking(bearer(key), b"x-balancer-prefer: PC2"))
            statuses.append(response.status)

    assert statuses == [200, 403]
