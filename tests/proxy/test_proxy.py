"""The relay over real sockets: which server a request goes to, and how it ends."""

import asyncio
import json
import random

import pytest

from app.routing.observations import ModelsSeen
from tests.fakes.ports import free_port
from tests.fakes.sockets import (
    SSE,
    Message,
    Visit,
    answering,
    chat,
    chunk,
    get,
    holding,
    listening,
    ok,
    post,
    refusing,
    until,
)
from tests.fakes.stack import relaying

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("every_cut")]

# Choosing


async def test_the_body_names_the_chosen_instance() -> None:
    from app.routing.observations import ModelsSeen

    seen: list[Message] = []
    async with listening(answering(ok(), seen)) as port, relaying(port) as stack:
        stack.balancer.observe(ModelsSeen("A", ["m:latest"]))
        await stack.ask(chat("m"))

    assert json.loads(seen[0].body)["model"] == "m:latest"
    assert stack.records[0].instance == "m:latest"


async def test_other_model_requests_hold_a_lease_at_the_fallback() -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async with listening(holding(arrived, go)) as port, relaying(port) as stack:
        asked = asyncio.ensure_future(stack.ask(post(b"not json", b"/v1/embeddings")))
        await arrived.wait()
        assert stack.balancer.backend("A").ledger.by_instance() == {"/v1/embeddings": 1}
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


# Servers that fail


async def test_a_refused_connection_is_no_error_while_another_server_is_there() -> None:
    seen: list[Message] = []
    async with listening(answering(ok(), seen)) as port, relaying(free_port(), port) as stack:
        for number in range(5):
            assert (await stack.ask(chat(client=f"c{number}"))).status == 200

    assert len(seen) == 5
    assert stack.records[0].failures == ("A",)
    assert stack.records[4].failures == ()
    assert stack.in_flight == 0


async def test_all_servers_refusing_is_a_bad_gateway_and_leaves_nothing_in_flight() -> None:
    """The count once leaked with every connect error."""
    with refusing() as one, refusing() as two:
        async with relaying(one, two, request_max=1) as stack:
            for _ in range(5):
                answer = await stack.ask(chat())
                assert answer.status == 502
                assert "127.0.0.1" not in answer.body.decode()

    assert stack.records[0].failures == ("A", "B")
    assert stack.in_flight == 0


async def test_a_request_that_the_server_has_read_is_not_repeated() -> None:
    visits = 0

    async def script(visit: Visit) -> None:
        nonlocal visits
        visits += 1
        await visit.message()
        await visit.say(ok(b"1"))
        await visit.message()  # and closes without a response

    async with listening(script) as port, relaying(port) as stack, stack.client() as client:
        await client.say(chat())
        assert (await client.message()).body == b"1"
        await client.say(chat())
        assert (await client.message()).status == 502

    assert visits == 1
    assert stack.records[1].outcome == "upstream_error"


@pytest.mark.parametrize(("method", "times"), [(b"POST", 1), (b"PATCH", 1), (b"DELETE", 2)])
async def test_what_may_not_be_done_twice_meets_no_connection_that_may_be_closed(
    method: bytes, times: int
) -> None:
    seen: list[str] = []

    async def script(visit: Visit) -> None:
        seen.append((await visit.message()).start)
        await visit.say(ok())
        seen.append((await visit.message()).start)  # and closes without a response

    request = get(b"/v1/responses/r1/cancel", method=method)
    async with listening(script) as port, relaying(port) as stack:
        await stack.ask(get(b"/x"))
        assert (await stack.ask(request)).status == 200

    assert len(seen) == 1 + times


async def test_a_body_that_cannot_be_edited_leaves_the_kept_connection_to_others() -> None:
    twice = b'{"model":"gpt-oss-low","chat_template_kwargs":{},"chat_template_kwargs":{}}'
    async with listening(answering(ok())) as port, relaying(port) as stack:
        stack.balancer.observe(ModelsSeen("A", ["m", "gpt-oss"]))
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
                await client.say(post(b"x" * 1_000, b"/v1/files")[:-500])
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
        await until(lambda: not stack.in_flight)
        assert stack.balancer.backend("A").health.healthy


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
        await until(lambda: not stack.in_flight)


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
            await client.say(post(b"x" * 1_000, b"/v1/files")[:-500])
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
        await until(lambda: not stack.in_flight)


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
        relaying(port, request_max=1, capacity=1, queue_timeout=1.0) as stack,
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
        stack.balancer.observe(ModelsSeen("A", ["other"]))
        stack.balancer.observe(ModelsSeen("B", ["m:latest"]))
        answer = await stack.ask(post(body, path.encode(), header))

    assert (answer["x-balancer-server"], answer["x-balancer-instance"]) == ("B", "m:latest")
    assert seen[0].body in (
        body.replace(b'"m"', b'"m:latest"'),
        body.replace(b"\nm\r", b"\nm:latest\r"),
    )


async def test_a_path_that_is_not_routed_goes_to_the_fallback_as_it_is() -> None:
    seen: list[Message] = []
    body = b'{"model": "m", "input": "hi"}'
    async with (
        listening(answering(ok(), seen)) as port,
        listening(answering(ok())) as elsewhere,
        relaying(port, elsewhere) as stack,
    ):
        stack.balancer.observe(ModelsSeen("A", ["other"]))
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
