"""The relay over real sockets: what reaches a server, and what comes back."""

import asyncio
import json
import random

import pytest

from app.routing.news import ModelsAnswer
from app.web.headers import route_headers
from tests.fakes.stack import (
    SSE,
    Message,
    Visit,
    answering,
    chat,
    chunk,
    closed_port,
    get,
    holding,
    listening,
    ok,
    post,
    relaying,
    until,
)

pytestmark = pytest.mark.anyio

# What reaches the server


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
        assert await visit.chunk() == b"first"
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
        assert (await stack.ask(post(body, b"/upload"))).status == 200

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


# What comes back


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_answers_without_a_body_leave_the_connections_usable(status: bytes) -> None:
    answer = b"HTTP/1.1 " + status + b"\r\netag: x\r\n\r\n"
    visits = 0

    async def script(visit: Visit) -> None:
        nonlocal visits
        visits += 1
        await answering(answer)(visit)

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        for _ in range(50):
            await client.say(get(b"/x"))
            assert (await client.message()).start == "HTTP/1.1 " + status.decode()

    assert visits == 1


async def test_head_has_the_length_and_no_body() -> None:
    async with listening(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")) as port:
        async with relaying(port) as stack, stack.client() as client:
            for _ in range(50):
                await client.say(get(b"/x", method=b"HEAD"))
                assert (await client.message(head_only=True))["content-length"] == "5"


async def test_interim_answers_are_for_us_alone() -> None:
    answer = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + ok(b"real")
    async with listening(answering(answer)) as port, relaying(port) as stack:
        assert (await stack.ask(get(b"/x"))).body == b"real"


async def test_a_redirect_is_passed_on_and_not_followed() -> None:
    answer = b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"
    async with listening(answering(answer)) as port, relaying(port) as stack:
        told = await stack.ask(get(b"/x"))

    assert (told.status, told["location"]) == (302, "http://169.254.169.254/")


async def test_compressed_bodies_pass_untouched() -> None:
    body = bytes(range(256))
    seen: list[Message] = []
    answer = ok(body, b"content-encoding: zstd", b"vary: accept-encoding")
    async with listening(answering(answer, seen)) as port, relaying(port) as stack:
        told = await stack.ask(get(b"/x", b"accept-encoding: zstd"))

    assert (told.body, told["content-encoding"]) == (body, "zstd")
    assert seen[0]["accept-encoding"] == "zstd"


async def test_headers_that_connection_nominates_stay_on_their_hop() -> None:
    seen: list[Message] = []
    answer = ok(b"", b"connection: x-inner", b"x-inner: 1", b"x-outer: 2")
    async with listening(answering(answer, seen)) as port, relaying(port) as stack:
        told = await stack.ask(get(b"/x", b"connection: keep-alive, x-mine", b"x-mine: 1"))

    assert "x-mine" not in seen[0]
    assert "x-inner" not in told
    assert told["x-outer"] == "2"


async def test_an_answer_that_ends_with_its_connection_ends_properly() -> None:
    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(b"HTTP/1.1 200 OK\r\n\r\n", b"to the ", b"end")

    async with listening(script) as port, relaying(port) as stack:
        assert (await stack.ask(get(b"/x"))).body == b"to the end"


async def test_an_answer_that_came_whole_is_sent_with_its_length() -> None:
    whole = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"whole") + chunk(b"")
    async with listening(answering(whole)) as port, relaying(port) as stack:
        answer = await stack.ask(chat())

    assert (answer.body, answer["content-length"]) == (b"whole", "5")
    assert "transfer-encoding" not in answer


async def test_a_client_that_wants_to_close_is_told_so_and_closed() -> None:
    request = post(b'{"model":"m"}', b"/v1/chat/completions", b"connection: close")
    async with listening(answering(ok(b"whole"))) as port, relaying(port) as stack:
        answer = await stack.ask(request)

    assert (answer.body, answer["connection"]) == (b"whole", "close")


async def test_every_event_is_passed_on_at_once() -> None:
    step = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(SSE)
        for number in range(3):
            await visit.say(chunk(b"data: %d\n\n" % number))
            await step.wait()
            step.clear()
        await visit.say(b"0\r\n\r\n")

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(chat(stream=True))
        assert (await client.head())["content-type"] == "text/event-stream"
        for number in range(3):
            assert await client.chunk() == b"data: %d\n\n" % number
            step.set()
        assert await client.chunk() == b""

    assert stack.records[0].stream


@pytest.mark.parametrize(
    ("events", "size"),
    [("data: 太郎\r\n\r\ndata: 2\n\n" * 5, 1), ("data: " + "x" * 8_000_000 + "\n\n", 1 << 20)],
    ids=["byte by byte", "one large event"],
)
async def test_a_stream_passes_unchanged_however_it_is_cut(events: str, size: int) -> None:
    body = events.encode()
    wire = SSE + chunk(body) + chunk(b"")

    async def script(visit: Visit) -> None:
        await visit.message()
        for place in range(0, len(wire), size):
            await visit.say(wire[place : place + size])
            await asyncio.sleep(0)

    async with listening(script) as port, relaying(port) as stack:
        assert (await stack.ask(chat(stream=True))).body == body


async def test_a_slow_reader_slows_the_server_down() -> None:
    finished = asyncio.Event()
    size = 40_000_000

    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size // 100_000):
            await visit.say(b"x" * 100_000)
        finished.set()

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(get(b"/x"))
        await client.head()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(finished.wait(), 0.3)
        assert len(await client.reader.readexactly(size)) == size
        await finished.wait()


# Choosing


async def test_the_body_names_the_chosen_instance() -> None:
    from app.routing.news import ModelsAnswer

    seen: list[Message] = []
    async with listening(answering(ok(), seen)) as port, relaying(port) as stack:
        stack.balancer.learn(ModelsAnswer("A", ["m-2"]))
        await stack.ask(chat("m"))

    assert json.loads(seen[0].body)["model"] == "m-2"
    assert stack.records[0].instance == "m-2"


async def test_other_model_requests_hold_a_lease_at_the_fallback() -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async with listening(holding(arrived, go)) as port, relaying(port) as stack:
        asked = asyncio.ensure_future(stack.ask(post(b"not json", b"/v1/embeddings")))
        await arrived.wait()
        assert stack.balancer.standing("A").ledger.by_instance() == {"/v1/embeddings": 1}
        go.set()
        assert (await asked).status == 200
        assert stack.in_flight == 0


async def test_pages_and_lists_hold_no_lease() -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async with listening(holding(arrived, go)) as port, relaying(port, request_max=1) as stack:
        asked = asyncio.ensure_future(stack.ask(get(b"/v1/chat/completions")))
        await arrived.wait()
        assert stack.in_flight == 0
        go.set()
        await asked


async def test_without_servers_the_answer_says_how_to_configure_them() -> None:
    async with relaying() as stack:
        for request in (chat(), get(b"/"), post(b"{}", b"/v1/embeddings")):
            answer = await stack.ask(request)
            assert answer.status == 404
            assert "BALANCER_SERVERS" in json.loads(answer.body)["error"]["message"]


# Bad input


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b'{"model":5}',
        rb'{"model":"\ud800"}',
        b'{"model":' + b"[" * 1_001,
        b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model":"m","model":"n"}',
        b'{"model":NaN}',
        b"\xff\xfe",
    ],
)
async def test_a_body_that_cannot_be_routed_is_the_clients_mistake(body: bytes) -> None:
    async with listening(answering(ok())) as port, relaying(port) as stack:
        async with stack.client() as client:
            await client.say(post(body))
            answer = await client.message()
            error = json.loads(answer.body)["error"]
            assert (answer.status, error["type"], error["code"]) == (
                400,
                "invalid_request_error",
                400,
            )
            await client.say(chat())
            assert (await client.message()).status == 200

    assert [record.outcome for record in stack.records] == ["client_error", "success"]


async def test_a_body_without_a_model_goes_to_the_fallback_unchanged() -> None:
    seen: list[Message] = []
    async with listening(answering(ok(), seen)) as port, relaying(port) as stack:
        assert (await stack.ask(post(b'{ "messages":[]}'))).status == 200

    assert seen[0].body == b'{ "messages":[]}'
    assert stack.records[0].reason == "fallback"


async def test_a_body_over_the_limit_is_refused_before_it_is_read() -> None:
    async with listening(answering(ok())) as port, relaying(port, max_body_bytes=100) as stack:
        async with stack.client() as client:
            await client.say(
                post(b"x" * 101, b"/v1/chat/completions", b"expect: 100-continue")[:-101]
            )
            answer = await client.message()
        assert answer.status == 413
        assert "BALANCER_MAX_BODY_BYTES" in answer.body.decode()
        async with stack.client() as client:
            await client.say(b"POST /v1/chat/completions HTTP/1.1\r\nhost: b\r\n")
            await client.say(b"transfer-encoding: chunked\r\n\r\n", chunk(b"x" * 101))
            assert (await client.message()).status == 413


# Servers that fail


async def test_a_refused_connection_is_no_error_while_another_server_is_there() -> None:
    seen: list[Message] = []
    async with listening(answering(ok(), seen)) as port, relaying(closed_port(), port) as stack:
        for number in range(5):
            assert (await stack.ask(chat(client=f"c{number}"))).status == 200

    assert len(seen) == 5
    assert stack.records[0].failures == ("A",)
    assert stack.records[4].failures == ()
    assert stack.in_flight == 0


async def test_all_servers_refusing_is_a_bad_gateway_and_leaves_nothing_in_flight() -> None:
    """The count once leaked with every connect error."""
    async with relaying(closed_port(), closed_port(), request_max=1) as stack:
        for _ in range(5):
            answer = await stack.ask(chat())
            assert answer.status == 502
            assert "127.0.0.1" not in answer.body.decode()

    assert stack.records[0].failures == ("A", "B")
    assert stack.in_flight == 0


async def test_a_kept_connection_that_was_closed_is_replaced_once() -> None:
    visits = 0

    async def script(visit: Visit) -> None:
        nonlocal visits
        visits += 1
        if visits == 1:
            await visit.message()
            await visit.say(ok(b"1"))
            await visit.message()  # and closes without an answer
        else:
            await visit.message()
            await visit.say(ok(b"2"))

    async with listening(script) as port, relaying(port) as stack:
        async with stack.client() as client:
            await client.say(chat())
            assert (await client.message()).body == b"1"
            await client.say(chat())
            assert (await client.message()).body == b"2"

    assert visits == 2
    assert stack.records[1].outcome == "success"


@pytest.mark.parametrize(("method", "times"), [(b"POST", 1), (b"PATCH", 1), (b"DELETE", 2)])
async def test_what_may_not_be_done_twice_meets_no_connection_that_may_be_closed(
    method: bytes, times: int
) -> None:
    seen: list[str] = []

    async def script(visit: Visit) -> None:
        seen.append((await visit.message()).start)
        await visit.say(ok())
        seen.append((await visit.message()).start)  # and closes without an answer

    request = get(b"/v1/responses/r1/cancel", method=method)
    async with listening(script) as port, relaying(port) as stack:
        await stack.ask(get(b"/x"))
        assert (await stack.ask(request)).status == 200

    assert len(seen) == 1 + times


async def test_a_request_over_a_kept_connection_that_was_closed_keeps_its_place() -> None:
    order: list[bytes] = []
    again = asyncio.Event()

    async def script(visit: Visit) -> None:
        order.append((await visit.message()).body)
        await visit.say(ok())
        if len(order) == 1:
            await visit.message()
            await again.wait()  # and closes without an answer
            return
        while True:
            order.append((await visit.message()).body)
            await visit.say(ok())

    async with listening(script) as port, relaying(port, request_max=1) as stack:
        async with stack.client() as client, stack.client() as waiting:
            await client.say(chat())
            await client.message()
            await client.say(chat(number=1))
            await until(lambda: stack.in_flight)
            await waiting.say(chat(number=2))
            await until(lambda: len(stack.waiting))
            again.set()
            await client.message()
            await waiting.message()

    assert [b'"number": %d' % n in body for n, body in enumerate(order[1:], 1)] == [True, True]


async def test_a_body_that_cannot_be_edited_leaves_the_kept_connection_to_others() -> None:
    twice = b'{"model":"gpt-oss-low","chat_template_kwargs":{},"chat_template_kwargs":{}}'
    async with listening(answering(ok())) as port, relaying(port) as stack:
        stack.balancer.learn(ModelsAnswer("A", ["m", "gpt-oss"]))
        await stack.ask(chat())
        refused = await stack.ask(post(twice))
        pool = repr(stack.pools["A"])

    assert refused.status == 400
    assert pool.endswith("0 busy, 1 idle>")


@pytest.mark.parametrize("status", [401, 503])
async def test_a_prompt_that_its_server_turned_away_is_not_believed_to_be_there(
    status: int,
) -> None:
    turned_away = b"HTTP/1.1 %d No\r\ncontent-length: 2\r\n\r\n{}" % status
    long = [{"role": "user", "content": "Tell me a story. " * 50}]
    async with listening(answering(turned_away)) as port, relaying(port) as stack:
        for _ in range(2):
            answer = await stack.ask(chat(messages=long))

    assert answer["x-balancer-reason"] == "empty_slot"


async def test_a_server_that_takes_a_request_and_closes_gets_it_only_once() -> None:
    deliveries: list[Message] = []

    async def script(visit: Visit) -> None:
        deliveries.append(await visit.message())

    async with listening(script) as one, listening(script) as two, relaying(one, two) as stack:
        answer = await stack.ask(chat())

    assert answer.status == 502
    assert len(deliveries) == 1
    assert stack.records[0].outcome == "upstream_error"


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 999 Odd\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\x00b\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 100_000,
        b"\x16\x03\x01\x02\x00",
    ],
)
async def test_a_server_that_answers_garbage_is_a_bad_gateway(garbage: bytes) -> None:
    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(garbage)
        await visit.closed()

    async with listening(script) as port, relaying(port) as stack:
        answer = await stack.ask(chat())
        error = json.loads(answer.body)["error"]

    assert (answer.status, error["type"]) == (502, "upstream_error")
    assert error["message"].startswith("server A: ")
    assert stack.in_flight == 0


async def test_a_silent_server_times_out_and_is_not_asked_again() -> None:
    deliveries: list[Message] = []

    async def script(visit: Visit) -> None:
        deliveries.append(await visit.message())
        await visit.closed()

    async with listening(script) as port, relaying(port, first_byte_timeout=0.1) as stack:
        answer = await stack.ask(chat())

    assert answer.status == 504
    assert len(deliveries) == 1
    assert stack.records[0].outcome == "timeout"


async def test_a_stream_that_breaks_between_events_ends_with_an_error_event_and_no_end() -> None:
    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(SSE, chunk(b"data: 1\n\n"))
        visit.reset()

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(chat(stream=True))
        await client.head()
        assert await client.chunk() == b"data: 1\n\n"
        error = json.loads((await client.chunk()).removeprefix(b"data: "))["error"]
        assert error["type"] == "upstream_error"
        assert await client.closed() == b""

    assert stack.records[0].outcome == "upstream_error"


async def test_a_stream_that_breaks_inside_an_event_just_ends_too_early() -> None:
    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(SSE, chunk(b"data: 1"))
        visit.reset()

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(chat(stream=True))
        await client.head()
        assert await client.chunk() == b"data: 1"
        assert await client.closed() == b""


@pytest.mark.parametrize("rest", [chunk(b""), b""], ids=["whole", "begun"])
async def test_an_event_that_nests_deeper_than_is_read_passes_as_any_other(rest: bytes) -> None:
    event = b"data: " + b"[" * 50_000 + b"\n\n"
    async with listening(answering(SSE + chunk(event) + rest)) as port, relaying(port) as stack:
        async with stack.client() as client:
            await client.say(chat(stream=True))
            assert event[:-2] in await client.reader.readuntil(b"\n\n")
        assert (await stack.record()).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        b"content-type: text/plain\r\ncontent-length: 100",
        b"content-type: text/plain\r\ntransfer-encoding: chunked",
        b"content-type: text/event-stream\r\ncontent-length: 100",
        b"content-type: text/event-stream\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked",
    ],
)
async def test_nothing_is_told_within_a_body_that_is_no_plain_event_stream(
    headers: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    text = b"text\n\n"

    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n\r\n")
        await visit.say(text if b"length" in headers else chunk(text))
        await passed.wait()

    passed = asyncio.Event()
    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(chat(stream=True))
        await client.reader.readuntil(text)
        passed.set()
        assert await client.closed() in (b"", b"\r\n")

    assert stack.records[0].outcome == "upstream_error"
    assert "RuntimeError" not in caplog.text


@pytest.mark.parametrize("stream", [True, False])
async def test_to_a_client_of_http_1_0_the_end_of_an_answer_is_that_of_the_connection(
    stream: bool,
) -> None:
    event = b"data: 1\n\n"

    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(*([SSE, chunk(event), chunk(event), chunk(b"")] if stream else [ok(event)]))

    old = chat(stream=stream).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(old)
        head = await client.head()
        body = await client.closed()

    assert "transfer-encoding" not in head
    assert head["connection"] == "close"
    assert body == (event * 2 if stream else event)


async def test_a_body_that_breaks_off_does_not_look_complete() -> None:
    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(chat())
        assert (await client.head())["content-length"] == "10"
        assert await client.closed() == b"half"


async def test_what_follows_an_answer_never_reaches_the_next_client() -> None:
    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(ok(b"mine") + ok(b"poison"))
        await visit.closed()

    async with listening(script) as port, relaying(port) as stack:
        for _ in range(3):
            assert (await stack.ask(chat())).body == b"mine"


async def test_an_early_answer_to_an_upload_leaves_no_half_sent_request_behind() -> None:
    visits = 0

    async def script(visit: Visit) -> None:
        nonlocal visits
        visits += 1
        await visit.head()
        await visit.say(ok(b"no more", b"x-visit: %d" % visits))
        await visit.closed()

    async with listening(script) as port, relaying(port) as stack:
        for number in (1, 2):
            async with stack.client() as client:
                await client.say(post(b"x" * 1_000, b"/upload")[:-500])
                assert (await client.message())["x-visit"] == str(number)


# Clients that leave


async def test_a_client_that_leaves_before_the_first_byte_cancels_the_request() -> None:
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.message()
        arrived.set()
        await visit.closed()
        gone.set()

    async with listening(script) as port, relaying(port) as stack:
        async with stack.client() as client:
            await client.say(chat())
            await arrived.wait()
        await gone.wait()
        record = await stack.record()
        assert record.outcome == "client_disconnect"
        assert stack.in_flight == 0
        assert stack.balancer.standing("A").window.valid


async def test_a_client_that_leaves_while_its_server_is_dialled_leaves_no_trace() -> None:
    dialled, given_up = asyncio.Event(), asyncio.Event()

    async def say_nothing(visit: Visit) -> None:
        await visit.reader.read(1)  # the beginning of TLS, which is never answered
        dialled.set()
        await visit.closed()
        given_up.set()

    async with listening(say_nothing) as port, relaying(port, scheme="https") as stack:
        async with stack.client() as client:
            await client.say(chat())
            await dialled.wait()
        record = await stack.record()
        await given_up.wait()

    assert record.outcome == "client_disconnect"
    assert record.sent is None
    assert stack.in_flight == 0


async def test_a_client_that_leaves_in_mid_stream_cancels_the_request() -> None:
    gone = asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.message()
        await visit.say(SSE, chunk(b"data: 1\n\n"))
        await visit.closed()
        gone.set()

    async with listening(script) as port, relaying(port) as stack:
        async with stack.client() as client:
            await client.say(chat(stream=True))
            await client.head()
            await client.chunk()
        await gone.wait()
        assert (await stack.record()).outcome == "client_disconnect"
        assert stack.in_flight == 0


async def test_a_client_that_leaves_while_it_waits_is_never_sent() -> None:
    deliveries: list[Message] = []
    go = asyncio.Event()

    async def script(visit: Visit) -> None:
        deliveries.append(await visit.message())
        await go.wait()
        await visit.say(ok())

    async with listening(script) as port, relaying(port, request_max=1) as stack:
        first = asyncio.ensure_future(stack.ask(chat(client="one")))
        await until(lambda: deliveries)
        async with stack.client() as leaver:
            await leaver.say(chat(client="two"))
            await until(lambda: len(stack.waiting))
        assert (await stack.record()).outcome == "client_disconnect"
        assert len(stack.waiting) == 0
        go.set()
        assert (await first).status == 200

    assert len(deliveries) == 1


async def test_a_client_that_leaves_in_mid_upload_cancels_the_request() -> None:
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.head()
        arrived.set()
        await visit.closed()
        gone.set()

    async with listening(script) as port, relaying(port) as stack:
        async with stack.client() as client:
            await client.say(post(b"x" * 1_000, b"/upload")[:-500])
            await arrived.wait()
        await gone.wait()
        assert (await stack.record()).outcome == "client_disconnect"


async def test_a_client_that_leaves_is_noticed_behind_a_pipelined_request() -> None:
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.message()
        arrived.set()
        await visit.closed()
        gone.set()

    async with listening(script) as port, relaying(port) as stack:
        async with stack.client() as client:
            await client.say(chat() + chat())
            await arrived.wait()
        await gone.wait()
        assert (await stack.record()).outcome == "client_disconnect"
        assert stack.in_flight == 0


async def test_pipelined_requests_are_answered_one_after_another() -> None:
    async with listening(answering(ok())) as port, relaying(port, request_max=1) as stack:
        async with stack.client() as client:
            await client.say(chat() * 50)
            for _ in range(50):
                assert (await client.message()).status == 200


async def test_two_thousand_clients_that_leave_at_random_leave_nothing_in_flight() -> None:
    rng = random.Random(1)

    async def script(visit: Visit) -> None:
        while True:
            await visit.message()
            await visit.say(SSE)
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
                await visit.say(chunk(b"data: x\n\n"))
            await visit.say(b"0\r\n\r\n")

    async with listening(script) as port, relaying(port, request_max=8) as stack:

        async def visitor(number: int) -> None:
            async with stack.client() as client:
                request = chat(client=f"c{number % 7}", stream=True) * rng.randrange(1, 4)
                await client.say(request[: rng.choice([30, 120, len(request)])])
                for _ in range(rng.randrange(12)):
                    await asyncio.sleep(0)
                if rng.random() < 0.5:
                    client.reset()

        for batch in range(40):
            await asyncio.gather(*(visitor(batch * 50 + n) for n in range(50)))
        await until(lambda: not stack.in_flight and not len(stack.waiting))
        answers = await asyncio.gather(*(stack.ask(chat(client=f"z{n}")) for n in range(8)))

    assert all(answer.status == 200 for answer in answers)
    assert {record.outcome for record in stack.records} <= {"success", "client_disconnect"}


# The queue


async def test_never_more_than_the_limit_reach_a_server_and_nobody_is_lost() -> None:
    now, peak = 0, 0

    async def script(visit: Visit) -> None:
        nonlocal now, peak
        while True:
            await visit.message()
            now += 1
            peak = max(peak, now)
            await asyncio.sleep(0)
            now -= 1
            await visit.say(ok())

    async with listening(script) as port, relaying(port, request_max=3) as stack:
        answers = await asyncio.gather(*(stack.ask(chat(client=f"c{n}")) for n in range(60)))

    assert [answer.status for answer in answers] == [200] * 60
    assert peak <= 3


async def test_a_full_queue_turns_away_at_once_and_a_long_wait_ends() -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async with (
        listening(holding(arrived, go)) as port,
        relaying(port, request_max=1, capacity=1, queue_timeout=0.2) as stack,
    ):
        served = asyncio.ensure_future(stack.ask(chat()))
        await arrived.wait()
        waiter = asyncio.ensure_future(stack.ask(chat()))
        await until(lambda: len(stack.waiting))
        refused = await stack.ask(chat())
        late = await waiter
        go.set()
        assert (await served).status == 200

    assert (refused.status, late.status) == (429, 503)
    assert all(int(answer["retry-after"]) > 0 for answer in (refused, late))


EVENT = b"data: {}\n\n"
STREAM = b"content-type: text/event-stream"
LIFE = b": waiting for a free server\n\n"


async def second_of_two(answer: bytes, **options: float) -> bytes:
    """Ask for a stream that has to wait until life was shown; then the server gives an answer."""
    first, go = asyncio.Event(), asyncio.Event()

    async def script(visit: Visit) -> None:
        await visit.message()
        if not first.is_set():
            first.set()
            await go.wait()
            await visit.say(ok())
            await visit.message()
        await visit.say(answer)

    async with (
        listening(script) as port,
        relaying(port, request_max=1, keepalive=0.01, **options) as stack,  # type: ignore[arg-type]
    ):
        served = asyncio.ensure_future(stack.ask(chat()))
        await first.wait()
        async with stack.client() as client:
            await client.say(chat(stream=True))
            head = await client.reader.readuntil(LIFE)
            assert b"200 OK" in head
            if "queue_timeout" not in options:
                go.set()
            rest = await client.reader.readuntil(b"0\r\n\r\n")
        go.set()
        assert (await served).status == 200
        assert stack.in_flight == 0
    return rest


async def test_a_stream_that_waits_shows_life_and_then_goes_on_with_the_answer() -> None:
    told = await second_of_two(ok(EVENT * 2, STREAM))

    assert EVENT * 2 in told


async def test_an_error_after_life_was_shown_is_an_event() -> None:
    error = b'{"error": {"message": "no such model", "type": "x", "code": 404}}'
    head = b"HTTP/1.1 404 Not Found\r\ncontent-length: %d\r\n\r\n" % len(error)

    told = await second_of_two(head + error)

    assert b"data: " + error in told


async def test_an_end_of_the_wait_after_life_was_shown_is_an_event() -> None:
    told = await second_of_two(ok(), queue_timeout=0.3)

    assert b'data: {"error": {"message": "every server was busy' in told


async def test_streams_that_are_no_events_are_waited_for_in_silence() -> None:
    first, go = asyncio.Event(), asyncio.Event()

    request = post(b'{"model":"m","stream":true}', b"/api/chat")
    async with (
        listening(holding(first, go, ok(b'{"done":true}\n'))) as port,
        relaying(port, request_max=1, keepalive=0.01, routed_paths=("/api/chat",)) as stack,
    ):
        served = [asyncio.ensure_future(stack.ask(request))]
        await first.wait()
        served.append(asyncio.ensure_future(stack.ask(request)))
        await until(lambda: len(stack.waiting))
        go.set()
        answers = await asyncio.gather(*served)

    assert [answer.body for answer in answers] == [b'{"done":true}\n'] * 2


async def test_a_client_that_leaves_after_life_was_shown_leaves_no_trace() -> None:
    first, go = asyncio.Event(), asyncio.Event()

    async with (
        listening(holding(first, go)) as port,
        relaying(port, request_max=1, keepalive=0.01) as stack,
    ):
        served = asyncio.ensure_future(stack.ask(chat()))
        await first.wait()
        async with stack.client() as client:
            await client.say(chat(stream=True))
            await client.reader.readuntil(LIFE)
        assert (await stack.record()).outcome == "client_disconnect"
        assert len(stack.waiting) == 0
        go.set()
        assert (await served).status == 200
        assert stack.in_flight == 0


ROUTED = ("/v1/embeddings", "/v1/messages/count_tokens", "/v1/audio/transcriptions")
FORM = (
    b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n'
    b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF\r\n--x--\r\n'
)


@pytest.mark.parametrize(
    ("path", "body", "header"),
    [
        ("/v1/embeddings", b'{"model": "m", "input": "hi"}', b"content-type: application/json"),
        ("/v1/messages/count_tokens", b'{"model": "m"}', b"content-type: application/json"),
        ("/v1/audio/transcriptions", FORM, b"content-type: multipart/form-data; boundary=x"),
    ],
)
async def test_a_path_that_is_routed_goes_where_its_model_is_under_its_name_there(
    path: str, body: bytes, header: bytes
) -> None:
    seen: list[Message] = []
    async with (
        listening(answering(ok())) as elsewhere,
        listening(answering(ok(), seen)) as port,
        relaying(elsewhere, port, routed_paths=ROUTED) as stack,
    ):
        stack.balancer.learn(ModelsAnswer("A", ["other"]))
        stack.balancer.learn(ModelsAnswer("B", ["m-2"]))
        answer = await stack.ask(post(body, path.encode(), header))

    assert (answer["x-balancer-server"], answer["x-balancer-instance"]) == ("B", "m-2")
    assert seen[0].body in (body.replace(b'"m"', b'"m-2"'), body.replace(b"\nm\r", b"\nm-2\r"))


async def test_a_path_that_is_not_routed_goes_to_the_fallback_as_it_is() -> None:
    seen: list[Message] = []
    body = b'{"model": "m", "input": "hi"}'
    async with (
        listening(answering(ok(), seen)) as port,
        listening(answering(ok())) as elsewhere,
        relaying(port, elsewhere) as stack,
    ):
        stack.balancer.learn(ModelsAnswer("A", ["other"]))
        answer = await stack.ask(post(body, b"/v1/embeddings"))

    assert (answer["x-balancer-server"], answer["x-balancer-reason"]) == ("A", "fallback")
    assert seen[0].body == body


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/score", "/api/v0/completions"])
async def test_other_ways_to_make_a_model_work_keep_the_limit(path: str) -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async with (
        listening(holding(arrived, go)) as port,
        relaying(port, request_max=1, capacity=0) as stack,
    ):
        served = asyncio.ensure_future(stack.ask(post(b'{"model":"m"}', path.encode())))
        await arrived.wait()
        assert (await stack.ask(chat())).status == 429
        go.set()
        assert (await served).status == 200


async def test_an_answer_tells_where_it_came_from_whatever_the_server_is_called() -> None:
    assert route_headers("PC 1 太郎\r\n", "m", "idle") == (
        (b"x-balancer-server", b"PC 1 %E5%A4%AA%E9%83%8E%0D%0A"),
        (b"x-balancer-instance", b"m"),
        (b"x-balancer-reason", b"idle"),
    )
