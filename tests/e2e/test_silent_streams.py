"""A stream on which the server is silent stays alive, in a way that each API's clients count."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import anthropic
import ollama
import openai
import pytest

from tests.fakes.model_host import ModelHost, status
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import SSE, Message, Visit, chunk, post

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

LINES = SSE.replace(b"text/event-stream", b"application/x-ndjson")
COMMENT = re.compile(rb"(?m)^: .*\n\n")
TYPED = re.compile(rb'event: keepalive\ndata: {"type":"keepalive"}\n\n')
PING = re.compile(rb'event: ping\ndata: {"type": "ping"}\n\n')

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
OLLAMA_CHAT, OLLAMA_GENERATE = "/api/chat", "/api/generate"
APIS = {
    CHAT: COMMENT,
    COMPLETIONS: COMMENT,
    "/completion": COMMENT,
    RESPONSES: TYPED,
    MESSAGES: PING,
    OLLAMA_CHAT: re.compile(
        rb'{"model": "m", "created_at": "[-\d]+T[:.\d]+Z", '
        rb'"message": {"role": "assistant", "content": ""}, "done": false}\n'
    ),
    OLLAMA_GENERATE: re.compile(
        rb'{"model": "m", "created_at": "[-\d]+T[:.\d]+Z", "response": "", "done": false}\n'
    ),
}
ERRORS = {
    CHAT: b'data: {"error": ',
    RESPONSES: b'event: response.failed\ndata: {"type": "response.failed", ',
    MESSAGES: b'event: error\ndata: {"type": "error", "error": {"type": ',
    OLLAMA_CHAT: b'{"error": "',
}
PIECES = {OLLAMA_CHAT: b'{"message":{"role":"assistant","content":"x"},"done":false}\n'}


def request(path: str, *headers: bytes, model: str = "m") -> bytes:
    body: dict[str, object] = {"model": model, "messages": [], "input": "hi", "prompt": "hi"}
    if not path.startswith("/api/"):  # Ollama's are streams by themselves
        body["stream"] = True
    return post(json.dumps(body).encode(), path.encode(), *headers)


def begins(path: str) -> bytes:
    return LINES if path.startswith("/api/") else SSE


def piece(path: str) -> bytes:
    return PIECES.get(path, b'{"done":false}\n' if path.startswith("/api/") else b"data: {}\n\n")


async def read_until(client: Visit, found: Callable[[bytes], object]) -> bytes:
    """Read chunks until what has come is enough."""
    text = b""
    while not found(text):
        text += await client.chunk()
    return text


class Silent:
    """A server that waits for a word before each piece of its responses, which are by path."""

    def __init__(self, pieces: Mapping[str, Sequence[bytes]]) -> None:
        self.pieces = pieces
        self.go = {path: asyncio.Semaphore(0) for path in pieces}
        self.host = ModelHost(self.handle)

    async def handle(self, visit: Visit, message: Message) -> bytes | None:
        path = message.start.split()[1]
        for data in self.pieces[path]:
            await self.go[path].acquire()
            await visit.say(data)
        await self.go[path].acquire()
        return None

    @contextlib.asynccontextmanager
    async def balanced(
        self, routed: str = "all", keepalive: float = 0.05
    ) -> AsyncIterator[Running]:
        """Run it, and a balancer in front of it."""
        async with (
            self.host.running(),
            balancing(
                {"A": self.host}, routed_paths=routed, stream_keepalive=keepalive
            ) as balancer,
        ):
            yield balancer


@pytest.mark.parametrize("routed", ["all", CHAT])
async def test_a_silent_stream_is_alive_before_the_first_byte_and_between_events(
    routed: str,
) -> None:
    server = Silent(
        {
            path: [begins(path) + chunk(piece(path)), chunk(piece(path)) + b"0\r\n\r\n"]
            for path in APIS
        }
    )

    async def follow(path: str) -> None:
        sign = APIS[path]
        if routed != "all" and path != CHAT:  # its model is not read
            sign = re.compile(sign.pattern.replace(b'"model": "m"', b'"model": ""'))
        async with balancer.client() as client:
            await client.say(request(path))
            head = await client.head()
            early = await read_until(client, lambda text: len(sign.findall(text)) >= 2)
            server.go[path].release()
            between = await read_until(
                client, lambda text: piece(path) in text and sign.search(text.split(piece(path))[1])
            )
            server.go[path].release()
            rest = await read_until(client, lambda text: text.endswith(piece(path)))
            assert await client.chunk() == b""
        assert head.status == 200
        assert head["content-type"].encode() in begins(path)
        assert head["cache-control"] == "no-cache"
        assert sign.sub(b"", early + between + rest) == 2 * piece(path)

    async with server.balanced(routed) as balancer:
        await asyncio.gather(*map(follow, APIS))


async def test_openais_packages_get_a_comment_before_the_first_event_of_a_response() -> None:
    server = Silent({RESPONSES: [SSE + chunk(piece(RESPONSES))]})
    async with server.balanced() as balancer, balancer.client() as client:
        await client.say(request(RESPONSES, b"user-agent: OpenAI/Python 2.0"))
        await client.head()
        early = await read_until(client, COMMENT.search)
        server.go[RESPONSES].release()
        await read_until(client, TYPED.search)

    assert not TYPED.search(early)


@pytest.mark.parametrize(
    ("path", "pieces"),
    [
        (CHAT, [b"data: {", b"}\n\n"]),
        (CHAT, [b"data: {}\n", b"\n"]),
        (OLLAMA_CHAT, [b'{"done":', b"false}\n"]),
    ],
)
async def test_nothing_is_put_into_an_event_that_is_not_whole(
    path: str, pieces: list[bytes]
) -> None:
    first, second = pieces
    other = COMPLETIONS
    server = Silent({path: [begins(path) + chunk(first), chunk(second)], other: []})
    async with server.balanced() as balancer, balancer.client() as client:
        server.go[path].release()
        await client.say(request(path))
        await client.head()
        text = await read_until(client, lambda text: first in text)
        await signs(balancer, other, 3)  # the first would have got some, too
        server.go[path].release()
        text += await read_until(client, APIS[path].search)

    assert text.startswith(first + second)


async def signs(balancer: Running, path: str, number: int) -> None:
    """Ask for a stream that stays silent until it has got so many signs of life."""
    async with balancer.client() as client:
        await client.say(request(path))
        await client.head()
        await read_until(client, lambda text: len(APIS[path].findall(text)) >= number)


async def test_a_stream_of_known_length_gets_nothing_from_us() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 20\r\n\r\n"
    server = Silent({CHAT: [head + b"data: {}\n\n", b"data: {}\n\n"], COMPLETIONS: []})
    async with server.balanced() as balancer, balancer.client() as client:
        server.go[CHAT].release()
        await client.say(request(CHAT))
        await client.head()
        assert await client.reader.readexactly(10) == b"data: {}\n\n"
        await signs(balancer, COMPLETIONS, 3)
        server.go[CHAT].release()
        server.go[CHAT].release()
        assert await client.reader.readexactly(10) == b"data: {}\n\n"


async def test_an_error_after_a_sign_is_an_error_of_that_api() -> None:
    body = b'{"error":{"message":"no such","type":"x","code":404}}'
    errors = [status(404, body=body), status(404, body=b"no such"), b""]

    async def follow(path: str, server: Silent, error: bytes) -> None:
        async with balancer.client() as client:
            await client.say(request(path))
            await client.head()
            text = await read_until(client, APIS[path].search)
            server.go[path].release()
            server.go[path].release()
            while data := await client.chunk():
                text += data
        told = APIS[path].sub(b"", text)
        assert told.startswith(ERRORS[path])
        assert not error or b"no such" in told

    for error in errors:
        server = Silent({path: [error] for path in ERRORS})
        async with server.balanced() as balancer:
            await asyncio.gather(*(follow(path, server, error) for path in ERRORS))


async def test_a_stream_that_breaks_ends_with_an_error_of_that_api() -> None:
    server = Silent({path: [begins(path) + chunk(piece(path))] for path in ERRORS})

    async def follow(path: str) -> None:
        async with balancer.client() as client:
            await client.say(request(path))
            server.go[path].release()
            server.go[path].release()
            await client.head()
            text = await client.closed()
        assert ERRORS[path] in text
        assert not text.endswith(b"0\r\n\r\n")

    async with server.balanced(keepalive=0) as balancer:
        await asyncio.gather(*map(follow, ERRORS))


async def test_an_error_without_a_stream_is_one_of_that_api() -> None:
    server = Silent({path: [] for path in ERRORS})
    found = {}
    async with server.balanced() as balancer:
        for path in ERRORS:
            server.go[path].release()
            response = await balancer.ask(request(path).replace(b'm": true', b'm": null'))
            found[path] = json.loads(response.body)
            assert response.status == 502

    message = "server A: the server closed the connection without a response"
    assert found[MESSAGES]["type"] == "error"
    assert found[MESSAGES]["error"] == {"type": "api_error", "message": message}
    assert found[OLLAMA_CHAT] == {"error": message}
    assert found[CHAT]["error"]["message"] == found[RESPONSES]["error"]["message"] == message


SILENCE = 2.0
PATIENCE = 1.0
"""Longest silence that the clients bear, in seconds: less than the server's."""


def events(*members: dict[str, object], named: bool = True) -> list[bytes]:
    """Write the events of a stream; each has its type as its name, too, where they are named."""
    found = []
    for member in members:
        name = f"event: {member['type']}\n" if named else ""
        found.append(f"{name}data: {json.dumps(member)}\n\n".encode())
    return found


def chat_chunk(delta: dict[str, object], reason: str | None = None) -> dict[str, object]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "choices": [choice]}


def tool(name: str | None, arguments: str) -> dict[str, object]:
    call: dict[str, object] = {"index": 0, "function": {"arguments": arguments}}
    if name:
        call |= {"id": "t", "type": "function", "function": {"name": name, "arguments": ""}}
    return {"tool_calls": [call]}


OUTPUT = {
    "type": "function_call", "id": "f", "call_id": "t", "name": "look", "arguments": '{"at":1}',
    "status": "completed",
}  # fmt: skip
RESPONSE: dict[str, object] = {
    "id": "r", "object": "response", "created_at": 1, "model": "m", "status": "completed",
    "output": [OUTPUT], "parallel_tool_calls": False, "tool_choice": "auto", "tools": [],
}  # fmt: skip
STREAMS = {
    CHAT: [
        *events(
            chat_chunk({"role": "assistant"} | tool("look", "")),
            chat_chunk(tool(None, '{"at":')),
            chat_chunk(tool(None, "1}")),
            chat_chunk({}, "tool_calls"),
            named=False,
        ),
        b"data: [DONE]\n\n",
    ],
    RESPONSES: events(
        {"type": "response.created", "response": RESPONSE | {"output": []}},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": OUTPUT | {"arguments": ""},
        },
        {
            "type": "response.function_call_arguments.delta",
            "item_id": "f",
            "output_index": 0,
            "delta": '{"at":1}',
        },
        {"type": "response.output_item.done", "output_index": 0, "item": OUTPUT},
        {"type": "response.completed", "response": RESPONSE},
    ),
    MESSAGES: events(
        {
            "type": "message_start",
            "message": {
                "id": "a", "type": "message", "role": "assistant", "model": "m", "content": [],
                "stop_reason": None, "stop_sequence": None,
                "usage": {"input_tokens": 1, "output_tokens": 1},
            },
        },
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "tool_use", "id": "t", "name": "look", "input": {}},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "input_json_delta", "partial_json": '{"at":1}'},
        },
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": {"output_tokens": 2},
        },
        {"type": "message_stop"},
    ),
    OLLAMA_CHAT: [
        json.dumps({"model": "m", "message": message, "done": done}).encode() + b"\n"
        for message, done in (
            ({"role": "assistant", "content": "so"}, False),
            ({"role": "assistant", "content": "", "tool_calls": [
                {"function": {"name": "look", "arguments": {"at": 1}}}
            ]}, False),
            ({"role": "assistant", "content": ""}, True),
        )
    ],
}  # fmt: skip


async def dawdle(visit: Visit, message: Message) -> bytes | None:
    """Say nothing for longer than a client waits, before the first byte and after two pieces."""
    path = message.start.split()[1]
    stream = STREAMS[path]
    await asyncio.sleep(SILENCE)
    await visit.say(begins(path), *(chunk(data) for data in stream[:2]))
    await asyncio.sleep(SILENCE)
    await visit.say(*(chunk(data) for data in stream[2:]))
    return b"0\r\n\r\n"


async def openai_chat(client: openai.AsyncOpenAI) -> object:
    stream = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    calls = [
        chunk.choices[0].delta.tool_calls[0].function async for chunk in stream
        if chunk.choices and chunk.choices[0].delta.tool_calls
    ]  # fmt: skip
    return json.loads("".join(call.arguments or "" for call in calls if call))


async def openai_responses(client: openai.AsyncOpenAI) -> object:
    text, last = "", ""
    async for event in await client.responses.create(model="m", input="hi", stream=True):
        last = event.type
        if event.type == "response.function_call_arguments.delta":
            text += event.delta
    assert last == "response.completed"
    return json.loads(text)


async def openai_responses_helper(client: openai.AsyncOpenAI) -> object:
    async with client.responses.stream(model="m", input="hi") as stream:
        final = await stream.get_final_response()
    item = final.output[0]
    assert item.type == "function_call"
    return json.loads(item.arguments)


async def anthropic_messages(client: anthropic.AsyncAnthropic) -> object:
    async with client.messages.stream(
        model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
    ) as stream:
        final = await stream.get_final_message()
    block = final.content[0]
    assert block.type == "tool_use"
    return block.input


async def ollama_chat(client: ollama.AsyncClient) -> object:
    calls: list[ollama.Message.ToolCall] = []
    async for part in await client.chat("m", [{"role": "user", "content": "hi"}], stream=True):
        calls += part.message.tool_calls or []
    assert part.done
    return calls[0].function.arguments


@pytest.mark.parametrize("keepalive", [0.2, 0])
async def test_clients_see_whole_responses_of_a_server_that_is_silent_for_longer_than_they_wait(
    keepalive: float,
) -> None:
    host = ModelHost(dawdle)
    async with (
        host.running(),
        balancing({"A": host}, routed_paths="all", stream_keepalive=keepalive) as balancer,
    ):
        url = f"http://127.0.0.1:{balancer.port}"
        options = {"api_key": "none", "max_retries": 0, "timeout": PATIENCE}
        async with (
            openai.AsyncOpenAI(base_url=f"{url}/v1", **options) as of_openai,  # type: ignore[arg-type]
            anthropic.AsyncAnthropic(base_url=url, **options) as of_anthropic,  # type: ignore[arg-type]
            ollama.AsyncClient(url, timeout=PATIENCE) as of_ollama,
        ):
            seen = await asyncio.gather(
                openai_chat(of_openai),
                openai_responses(of_openai),
                openai_responses_helper(of_openai),
                anthropic_messages(of_anthropic),
                ollama_chat(of_ollama),
                return_exceptions=True,
            )

    if keepalive:
        assert list(seen) == [{"at": 1}] * 5
    else:
        assert all(isinstance(error, Exception) for error in seen)
