"""Bodies that clients compress are read, and sent on as they came."""

import gzip
import json
import sys
import zlib

import pytest

from tests.fakes.model_host import ModelHost
from tests.fakes.process import balancing
from tests.fakes.sockets import post

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.anyio

PATH = b"/v1/chat/completions"
TEXT = json.dumps({"model": "b", "messages": [{"role": "user", "content": "Hi! " * 300}]}).encode()
BODIES = {
    b"gzip": gzip.compress(TEXT),
    b"deflate": zlib.compress(TEXT),
    b"zstd": zstd.compress(TEXT),
}


def sent(body: bytes, encoding: bytes) -> bytes:
    return post(body, PATH, b"content-type: application/json", b"content-encoding: " + encoding)


async def test_a_compressed_body_is_routed_by_its_model_and_sent_as_it_came() -> None:
    first, second = ModelHost(models=("a",)), ModelHost(models=("b",))
    async with (
        first.running(),
        second.running(),
        balancing({"A": first, "B": second}) as balancer,
    ):
        for encoding, body in BODIES.items():
            response = await balancer.ask(sent(body, encoding))
            assert response["x-balancer-server"] == "B"

    seen = [(message["content-encoding"].encode(), message.body) for message in second.seen]
    assert seen == list(BODIES.items())
    assert not first.seen


async def test_a_compressed_body_that_is_edited_is_sent_decoded() -> None:
    host = ModelHost()
    async with host.running(), balancing({"A": host}, aliases='{"b": "m"}') as balancer:
        await balancer.ask(sent(BODIES[b"zstd"], b"zstd"))

    (message,) = host.seen
    assert "content-encoding" not in message
    assert message.body == TEXT.replace(b'"b"', b'"m"')


async def test_an_encoding_that_is_not_known_is_told() -> None:
    host = ModelHost()
    async with host.running(), balancing({"A": host}) as balancer:
        response = await balancer.ask(sent(TEXT, b"br"))

    assert response.status == 415
    assert response["accept-encoding"] == "gzip, deflate, zstd"
    assert not host.seen


async def test_what_is_not_encoded_as_it_says_is_refused() -> None:
    host = ModelHost()
    async with host.running(), balancing({"A": host}) as balancer:
        for encoding, body in BODIES.items():
            for wrong in (TEXT, body[:-9], body + b"more"):
                assert (await balancer.ask(sent(wrong, encoding))).status == 400

    assert not host.seen


async def test_a_body_has_its_limit_once_it_is_decoded() -> None:
    bomb = b'{"model":"b","x":"' + b"a" * 30_000_000 + b'"}'
    host = ModelHost()
    async with (
        host.running(),
        balancing({"A": host}, max_body_bytes=20_000_000) as balancer,
    ):
        for body, encoding in ((gzip.compress(bomb), b"gzip"), (zstd.compress(bomb), b"zstd")):
            assert (await balancer.ask(sent(body, encoding))).status == 413

    assert not host.seen


async def test_decoded_bodies_count_among_those_that_are_held() -> None:
    long = b'{"model":"b","x":"' + b"a" * 3_000_000 + b'"}'
    host = ModelHost()
    async with (
        host.running(),
        balancing({"A": host}, max_buffered_bytes=2_000_000) as balancer,
    ):
        refused = await balancer.ask(sent(gzip.compress(long), b"gzip"))
        served = await balancer.ask(sent(BODIES[b"gzip"], b"gzip"))

    assert (refused.status, served.status) == (503, 200)


async def test_a_byte_order_mark_is_skipped() -> None:
    host = ModelHost()
    async with host.running(), balancing({"A": host}) as balancer:
        assert (await balancer.ask(post(b"\xef\xbb\xbf" + TEXT))).status == 200

    assert json.loads(host.seen[0].body)["model"] == "b"
