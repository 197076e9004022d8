import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from app.routing.observations import ModelsSeen
from app.telemetry import logs
from app.telemetry.logs import LogFormat, LogLevel, RequestLog
from app.telemetry.record import Outcome, Record
from app.telemetry.response_reader import ResponseReader
from tests.fakes import records
from tests.fakes.ports import free_port
from tests.fakes.sockets import SSE, answering, chat, chunk, get, listening, ok, post
from tests.fakes.stack import relaying


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn.error")
    kept = (root.handlers[:], root.level, uvicorn.level, uvicorn.filters[:])
    yield
    root.handlers, uvicorn.filters = kept[0], kept[3]
    root.setLevel(kept[1])
    uvicorn.setLevel(kept[2])
    structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


class Fault(Exception): ...


def configured(
    log_format: LogFormat = "json",
    level: LogLevel = "info",
    stream: io.StringIO | None = None,
) -> io.StringIO:
    stream = stream or io.StringIO()
    logs.configure(log_format, level, stream)
    return stream


def record(outcome: Outcome | None = "success", **facts: Any) -> Record:
    return records.record("id-1", outcome=outcome, ended=1.25, **facts)


def written(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_request_is_one_line_of_json() -> None:
    stream = configured()
    RequestLog().finished(
        record(
            username="alice",
            model="m",
            stream=True,
            server="PC1",
            instance="m-2",
            reason="sticky",
            failures=("PC2",),
            waited=0.0123,
            sent=1.01,
            first_byte=1.0352,
            status=200,
        )
    )

    [line] = written(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "request",
        "level": "info",
        "id": "id-1",
        "endpoint": "/v1/chat/completions",
        "status": 200,
        "outcome": "success",
        "client": "10.0.0.1",
        "username": "alice",
        "model": "m",
        "instance": "m-2",
        "stream": True,
        "server": "PC1",
        "reason": "sticky",
        "unreachable": ["PC2"],
        "duration_ms": 250.0,
        "queue_wait_ms": 12.3,
        "first_byte_ms": 25.2,
    }


def test_what_there_is_not_is_left_out() -> None:
    stream = configured()
    RequestLog().finished(record("client_error", status=400, error="the body is not JSON"))

    [line] = written(stream)
    assert not {"server", "model", "username", "first_byte_ms"} & set(line)
    assert line["error"] == "the body is not JSON"


def test_a_line_has_the_path_where_the_endpoint_does_not_say_it() -> None:
    stream = configured()
    token = "0123456789abcdef0123456789abcdef"
    for path in ("/v1/files", f"/bot{token}/send"):
        RequestLog().finished(record(endpoint="other", path=path))
    RequestLog().finished(record())

    lines = written(stream)
    assert [line.get("path") for line in lines] == ["/v1/files", "/…/send", None]


def test_a_line_has_the_tokens_and_how_fast_they_came() -> None:
    response = ResponseReader(streams=True)
    for delta in ("a", "b"):
        text = json.dumps({"choices": [{"delta": {"content": delta}}]})
        response.passes(f"data: {text}\n\n".encode())
    usage = {"prompt_tokens": 90, "completion_tokens": 21}
    details = {"prompt_tokens_details": {"cached_tokens": 64}}
    response.passes(f"data: {json.dumps({'choices': [], 'usage': usage | details})}\n\n".encode())
    response.first_token = 1.05
    stream = configured()
    RequestLog().finished(record(response=response))

    [line] = written(stream)
    assert (line["prompt_tokens"], line["cached_tokens"], line["completion_tokens"]) == (90, 64, 21)
    assert (line["first_token_ms"], line["tokens_per_second"]) == (50.0, 100.0)


@pytest.mark.parametrize(
    ("outcome", "level"),
    [("success", "info"), ("client_disconnect", "info"), ("timeout", "warning"), (None, "warning")],
)
def test_trouble_with_a_server_is_a_warning(outcome: Outcome | None, level: str) -> None:
    stream = configured()
    RequestLog().finished(record(outcome))

    assert written(stream)[0]["level"] == level


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_name_cannot_forge_a_line(log_format: LogFormat) -> None:
    stream = configured(log_format)
    RequestLog().finished(record(username='a\r\n{"event":"forged"}\x1b[31m', model="b\nc"))

    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b[31m" not in stream.getvalue()


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_control_characters_of_clients_never_reach_a_terminal(log_format: LogFormat) -> None:
    stream = configured(log_format)
    evil = "\x1b[2Jgone\r\x9b1A\x07\nforged"
    RequestLog().finished(record(username=evil, model=evil, error=evil))

    [line] = stream.getvalue().splitlines()
    assert line.isprintable()
    assert "gone" in line


def test_auto_is_for_people_on_a_terminal_and_json_elsewhere() -> None:
    terminal = configured("auto", stream=Terminal())
    structlog.get_logger().info("hello")
    with pytest.raises(json.JSONDecodeError):
        written(terminal)
    pipe = configured("auto")
    structlog.get_logger().info("hello")

    assert written(pipe)[0]["event"] == "hello"


def test_lines_below_the_level_are_not_written() -> None:
    stream = configured(level="warning")
    RequestLog().finished(record())
    structlog.get_logger().warning("server.down", server="PC1")

    assert [line["event"] for line in written(stream)] == ["server.down"]


def test_the_libraries_lines_look_like_ours() -> None:
    stream = configured()
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request from %s", "there")
    logging.getLogger("uvicorn.error").info("chatter")

    [line] = written(stream)
    assert (line["event"], line["level"]) == ("Invalid HTTP request from there", "warning")


def test_a_stream_that_is_gone_touches_nobody() -> None:
    configured(stream=Gone())

    RequestLog().finished(record())


def test_lines_of_one_turn_of_the_loop_are_written_together() -> None:
    class Counting(io.StringIO):
        writes = 0

        def write(self, text: str) -> int:
            self.writes += 1
            return super().write(text)

    stream = Counting()

    async def turn() -> None:
        configured(stream=stream)
        for _ in range(5):
            RequestLog().finished(record())

    asyncio.run(turn())

    assert len(written(stream)) == 5
    assert stream.writes == 1


def test_what_the_fast_encoder_refuses_is_written_all_the_same() -> None:
    stream = configured()
    structlog.get_logger().info("odd", number=2**70, half="\ud83d", thing=Fault)

    [line] = written(stream)
    assert line["number"] == 2**70
    assert line["half"] == "\ud83d"


def test_a_logged_exception_is_an_error_with_its_trace() -> None:
    stream = configured()
    try:
        raise Fault
    except Fault:
        structlog.get_logger().exception("telemetry.failed")

    [line] = written(stream)
    assert line["level"] == "error"
    assert "Fault" in line["exception"]


@pytest.mark.anyio
async def test_no_line_tells_what_a_client_said_or_was_told() -> None:
    secret = "c4n4ry"
    said = [{"role": "user", "content": secret}]
    broken = SSE + chunk(b"data: " + secret.encode() + b"\n\n") + b"no chunk " + secret.encode()
    stream = configured(level="debug")
    async with (
        listening(answering(ok(secret.encode()))) as whole,
        listening(answering(broken)) as breaking,
        relaying(whole, breaking, free_port()) as stack,
    ):
        for server in "ABC":
            stack.balancer.observe(ModelsSeen(server, [f"m-{server}"]))
        for request in [
            *(chat(f"m-{server}", messages=said, stream=True) for server in "ABC"),
            post(b"not json " + secret.encode()),
            get(f"/x?key={secret}".encode(), f"authorization: Bearer {secret}".encode()),
            f"{secret} {secret}\r\n\r\n".encode(),
        ]:
            async with stack.client() as client:
                await client.say(request)
                await client.reader.readuntil(b"\r\n\r\n")
        await stack.record(5)
        for finished in stack.records:
            RequestLog().finished(finished)

    assert len(written(stream)) >= 5
    assert secret not in stream.getvalue()
