"""A POST to a path that is not known may make a model work, so that it counts as if it did."""

import asyncio
import json

import pytest

from tests.fakes.model_host import ModelHost, complete, status
from tests.fakes.process import balancing
from tests.fakes.sockets import Message, Visit, chat, post

pytestmark = pytest.mark.anyio


def counted() -> tuple[ModelHost, asyncio.Event]:
    """Make a server whose responses wait for one that comes beside them, which none should."""
    crowded = asyncio.Event()
    host = ModelHost()

    async def wait(visit: Visit, message: Message) -> bytes | None:
        if host.active > 1:
            crowded.set()
        for _ in range(20):
            await asyncio.sleep(0)
        return await complete(visit, message)

    host.handle = wait
    return host, crowded


WORKING = (
    b"/v2/rerank",
    b"/responses",
    b"/api/v1/chat",
    b"/upstream/m/v1/chat/completions",
    b"/v1/chat/completions/",
    b"//v1/chat/completions",
    b"/v1//chat/completions",
    b"/v1/./chat/completions",
    b"/anything",
)


async def test_no_more_are_at_a_server_than_its_limit_whatever_the_path() -> None:
    host, crowded = counted()
    async with host.running(), balancing({"A": host.limited(1)}) as balancer:
        for path in WORKING:
            requests = [post(b'{"model":"m"}', path) for _ in range(4)]
            responses = await asyncio.gather(*map(balancer.ask, requests))
            assert [response.status for response in responses] == [200] * 4, path

    sent = {message.start.split()[1].encode() for message in host.seen}
    assert sent == set(WORKING)
    assert not crowded.is_set()


HARMLESS = (
    b"/tokenize",
    b"/v1/files",
    b"/v1/messages/count_tokens",
    b"/v1/responses/resp_1/cancel",
    b"/slots/0?action=save",
    b"/models/unload",
    b"/api/show",
)


async def test_what_makes_no_model_work_waits_for_no_place() -> None:
    go = asyncio.Event()
    host = ModelHost()

    async def hold(visit: Visit, message: Message) -> bytes | None:
        if "/v1/chat/completions" in message.start:
            await go.wait()
        return await complete(visit, message)

    host.handle = hold
    async with host.running(), balancing({"A": host.limited(1)}) as balancer:
        working = asyncio.create_task(balancer.ask(chat()))
        await balancer.until(lambda: host.active)
        for path in HARMLESS:
            response = await balancer.ask(post(b'{"model":"m"}', path))
            assert response.status == 200, path
        go.set()
        await working


async def test_a_path_with_a_slash_too_many_is_routed_by_its_model() -> None:
    first, second = ModelHost(models=("a",)), ModelHost(models=("b",))
    models = {"a": ["A"], "b": ["B"]}
    async with (
        first.running(),
        second.running(),
        balancing({"A": first, "B": second}, models) as balancer,
    ):
        response = await balancer.ask(post(b'{"model":"b"}', b"//v1/chat/completions"))

    assert response["x-balancer-server"] == "B"


async def test_an_upload_longer_than_a_request_to_a_model_passes_unread() -> None:
    host = ModelHost()
    async with (
        host.running(),
        balancing({"A": host}, max_body_bytes=1000) as balancer,
    ):
        response = await balancer.ask(post(b"x" * 100_000, b"/anything"))

    assert response.status == 200
    assert len(host.seen[0].body) == 100_000


async def test_an_api_that_is_not_routed_tells_which_setting_routes_it() -> None:
    async def lacking(visit: Visit, message: Message) -> bytes | None:
        return status(404, body=b'{"error":"model not found"}')

    first, second = ModelHost(lacking, models=("a",)), ModelHost(models=("b",))
    async with (
        first.running(),
        second.running(),
        balancing({"A": first, "B": second}) as balancer,
    ):
        told = await balancer.ask(post(b'{"model":"b"}', b"/v1/embeddings"))
        unknown = await balancer.ask(post(b'{"model":"c"}', b"/v1/embeddings"))

    assert told.status == unknown.status == 404
    assert json.loads(told.body)["error"]["message"] == (
        'the fallback server lacks the model "b", which B has; '
        "BALANCER_ROUTED_PATHS=all routes /v1/embeddings by its model"
    )
    assert json.loads(unknown.body) == {"error": "model not found"}


async def test_without_patterns_every_server_may_serve_every_model() -> None:
    first, second = ModelHost(models=("a",)), ModelHost(models=("b",))
    async with (
        first.running(),
        second.running(),
        balancing({"A": first, "B": second}, {}, routed_paths="all") as balancer,
    ):
        for path in (b"/v1/chat/completions", b"/v1/audio/speech", b"/v1/images/generations"):
            response = await balancer.ask(post(b'{"model":"b"}', path))
            assert response["x-balancer-server"] == "B"
