"""What reaches a server, over real sockets."""

import asyncio
import random

import pytest

from tests.fakes.sockets import Message, Visit, answering, chat, chunk, get, listening, ok, post
from tests.fakes.stack import relaying

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_cut")]


async def test_a_request_reaches_the_server_as_it_came() -> None:
    seen: list[Message] = []
    async with listening(answering(ok(b'{"a":1}'), seen)) as port, relaying(port) as stack:
        request = chat(temperature=0.5)
        answer = await stack.ask(request)

    assert (answer.status, answer.body) == (200, b'{"a":1}')
    assert seen[0].start == "POST /v1/chat/completions HTTP/1.1"
    assert seen[0].body == request.partition(b"\r\n\r\n")[2]
    assert seen[0]["host"] == f"127.0.0.1:{port}"
    assert seen[0]["x-forwarded-for"] == "127.0.0.1"
    assert seen[0]["x-forwarded-host"] == "balancer"
    assert seen[0]["x-forwarded-proto"] == "http"


async def test_the_request_id_goes_both_ways() -> None:
    seen: list[Message] = []
    async with listening(answering(ok(), seen)) as port, relaying(port) as stack:
        given = await stack.ask(
            post(b'{"model":"m"}', b"/v1/chat/completions", b"x-request-id: a-1")
        )
        made = await stack.ask(
            post(b'{"model":"m"}', b"/v1/chat/completions", b"x-request-id: a b")
        )

    assert (given["x-request-id"], seen[0]["x-request-id"]) == ("a-1", "a-1")
    assert made["x-request-id"] == seen[1]["x-request-id"] != "a b"


async def test_a_trusted_proxys_word_about_the_origin_is_passed_on_with_ours() -> None:
    seen: list[Message] = []
    request = get(b"/x", b"x-forwarded-for: 1.2.3.4")
    async with listening(answering(ok(), seen)) as port:
        async with relaying(port, trusted=("127.0.0.0/8",)) as stack:
            await stack.ask(request)
            assert stack.records[0].address == "1.2.3.4"
        async with relaying(port) as stack:
            await stack.ask(request)
            assert stack.records[0].address == "127.0.0.1"

    assert [x["x-forwarded-for"] for x in seen] == ["1.2.3.4, 127.0.0.1", "127.0.0.1"]


async def test_other_words_about_the_origin_are_passed_on_for_trusted_proxies_alone() -> None:
    seen: list[Message] = []
    request = get(
        b"/x", b"x-real-ip: 1.2.3.4", b"forwarded: for=1.2.3.4", b"forwarded: for=5.6.7.8"
    )
    async with listening(answering(ok(), seen)) as port:
        async with relaying(port, trusted=("127.0.0.0/8",)) as stack:
            await stack.ask(request)
        async with relaying(port) as stack:
            await stack.ask(request)

    believed, not_believed = (dict(message.headers) for message in seen)
    assert believed["x-real-ip"] == "1.2.3.4"
    assert believed["forwarded"] == "for=1.2.3.4, for=5.6.7.8, for=127.0.0.1"
    assert {"x-real-ip", "forwarded"}.isdisjoint(not_believed)


async def test_lines_about_the_origin_are_read_and_passed_on_as_the_one_that_they_make_up() -> None:
    seen: list[Message] = []
    request = get(b"/x", b"x-forwarded-for: 1.2.3.4", b"x-forwarded-for: 127.0.0.2, 127.0.0.3")
    async with listening(answering(ok(), seen)) as port:
        async with relaying(port, trusted=("127.0.0.0/8",)) as stack:
            await stack.ask(request)

    assert stack.records[0].address == "1.2.3.4"
    assert seen[0]["x-forwarded-for"] == "1.2.3.4, 127.0.0.2, 127.0.0.3, 127.0.0.1"


@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"/a?b=c&d=%20",
        b"/v1/%2e%2e/slots",
        b"//evil.example/x",
        b"/a/../b",
        b"/%00",
        b"/caf%C3%A9",
        b"/v1/models/m",
        b"/x?",
        b"/@evil.example/",
    ],
)
async def test_odd_paths_reach_the_configured_server_untouched(target: bytes) -> None:
    seen: list[Message] = []
    async with listening(answering(ok(), seen)) as port, relaying(port) as stack:
        answer = await stack.ask(get(target))

    assert answer.status == 200
    assert seen[0].start.split()[1].rstrip("?") == target.decode().rstrip("?")
    assert seen[0]["host"] == f"127.0.0.1:{port}"


async def test_an_absolute_target_names_us_not_another_server() -> None:
    seen: list[Message] = []
    async with listening(answering(ok(), seen)) as port, relaying(port) as stack:
        answer = await stack.ask(get(b"http://evil.example:99/x?y=1"))

    assert answer.status == 200
    assert seen[0].start == "GET /x?y=1 HTTP/1.1"
    assert seen[0]["host"] == f"127.0.0.1:{port}"


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"PROPFIND"])
async def test_any_method_is_proxied(method: bytes) -> None:
    seen: list[Message] = []
    async with listening(answering(ok(), seen)) as port, relaying(port) as stack:
        assert (await stack.ask(get(b"/x", method=method))).status == 200

    assert seen[0].start.startswith(method.decode() + " ")


async def test_a_chunked_upload_is_streamed_in_chunks() -> None:
    arrived = asyncio.Event()

    async def script(visit: Visit) -> None:
        head = await visit.head()
        assert head["transfer-encoding"] == "chunked"
        assert "content-length" not in head
        begun = b""
        while begun != b"first":
            begun += await visit.chunk()
        arrived.set()
        rest = b""
        while data := await visit.chunk():
            rest += data
        await visit.say(ok(rest))

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(b"PUT /x HTTP/1.1\r\nhost: b\r\ntransfer-encoding: chunked\r\n\r\n")
        await client.say(chunk(b"first"))
        await arrived.wait()
        await client.say(chunk(b"second"), b"0\r\nx-trailer: 1\r\n\r\n")

        assert (await client.message()).body == b"second"


async def test_a_large_upload_arrives_whole_and_is_never_held_as_a_whole() -> None:
    body = random.Random(7).randbytes(3_000_000)
    seen: list[Message] = []
    async with (
        listening(answering(ok(), seen)) as port,
        relaying(port, max_body_bytes=1_000) as stack,
    ):
        assert (await stack.ask(post(body, b"/v1/files"))).status == 200

    assert seen[0].body == body


async def test_trailers_of_a_request_never_become_headers() -> None:
    seen: list[Message] = []
    async with listening(answering(ok(), seen)) as port, relaying(port) as stack:
        async with stack.client() as client:
            await client.say(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: b\r\n",
                b"transfer-encoding: chunked\r\n\r\n",
                chunk(b'{"model":"m"}'),
                b"0\r\nauthorization: forged\r\nx-forwarded-for: 6.6.6.6\r\n\r\n",
            )
            assert (await client.message()).status == 200

    assert "authorization" not in seen[0]
    assert seen[0].body == b'{"model":"m"}'
    assert stack.records[0].address == "127.0.0.1"
