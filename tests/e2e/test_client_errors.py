"""Each API's own packages see our errors as errors of their own kind."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest

from tests.fakes.model_host import ModelHost, complete, status
from tests.fakes.ports import free_port
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import SSE, Message, Visit

pytestmark = pytest.mark.anyio

KEYS = {
    "any": "sk-any-0123456789",
    "limited": {"key": "sk-limited-0123456789", "models": ["ok"]},
    "slow": {"key": "sk-slow-0123456789", "requests_per_minute": 1},
}
ANY, LIMITED, SLOW = "sk-any-0123456789", "sk-limited-0123456789", "sk-slow-0123456789"

CASES: dict[str, tuple[str, str, int, bool]] = {
    # what is asked for, by which key, the status, and whether streams alone can meet it
    "a wrong key": ("ok", "sk-wrong-0123456789", 401, False),
    "a model that the key does not allow": ("down", LIMITED, 403, False),
    "a key that asks too often": ("ok", SLOW, 429, False),
    "a prompt that is too long": ("long", ANY, 400, False),
    "a server that cannot be reached": ("down", ANY, 502, False),
    "a server that closes the connection": ("closes", ANY, 502, False),
    "a wait that is too long": ("full", ANY, 503, False),
    "a stream that breaks": ("breaks", ANY, 200, True),
    "an error after a sign of life": ("late", ANY, 200, True),
}
NAMES = {
    400: ("BadRequestError",),
    401: ("AuthenticationError",),
    403: ("PermissionDeniedError",),
    429: ("RateLimitError",),
    502: ("InternalServerError",),
    503: ("InternalServerError", "ServiceUnavailableError"),
}
"""How the packages of OpenAI and Anthropic call an error of a status."""

TOO_LONG = {
    "error": {
        "code": 400,
        "message": "request (500 tokens) exceeds the available context size",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": 500,
        "n_ctx": 400,
    }
}

FIRST: dict[str, bytes] = {
    "/v1/chat/completions": b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n',
    "/v1/completions": b'data: {"id":"x","choices":[{"index":0,"text":"a"}]}\n\n',
    "/v1/responses": b'event: response.in_progress\ndata: {"type":"response.in_progress",'
    b'"response":{"id":"resp_1"}}\n\n',
    "/v1/messages": b'event: ping\ndata: {"type":"ping"}\n\n',
    "/api/chat": b'{"model":"m","message":{"role":"assistant","content":"a"},"done":false}\n',
    "/api/generate": b'{"model":"m","response":"a","done":false}\n',
}
"""The first event of a stream, by path."""


async def fail(visit: Visit, message: Message) -> bytes | None:
    """Do what the model's name says."""
    path = message.start.split()[1]
    match json.loads(message.body)["model"]:
        case "long":
            return status(400, body=json.dumps(TOO_LONG).encode())
        case "closes":
            return None
        case "full":
            await asyncio.Event().wait()
        case "late":
            await asyncio.sleep(0.25)  # longer than a client is kept without a sign of life
            return None
        case "breaks":
            lines = SSE.replace(b"text/event-stream", b"application/x-ndjson")
            head = lines if path.startswith("/api/") else SSE
            first = FIRST[path]
            await visit.say(head + b"%x\r\n%b\r\n" % (len(first), first))
            return None
    return await complete(visit, message)


@asynccontextmanager
async def failing() -> AsyncIterator[Running]:
    """Run a balancer whose requests fail in the way that their model's name says."""
    host = ModelHost(fail, ("ok", "long", "closes", "breaks", "late"))
    full = ModelHost(fail, ("full",))
    async with host.running(), full.running():
        servers: dict[str, ModelHost | Mapping[str, object]] = {
            "A": host,
            "F": full.limited(1),
            "D": {"addr": f"http://127.0.0.1:{free_port()}"},
        }
        async with balancing(
            servers,
            {"full": ["F"], "down": ["D"], ".*": ["A"]},
            routed_paths="all",
            queue_timeout=0.2,
            stream_keepalive=0.1,
            api_keys=json.dumps(KEYS),
            ready=False,
        ) as balancer:
            chat, *_ = by_openai(balancer, stream=False)
            holding = asyncio.ensure_future(chat("full", ANY))
            await chat("ok", SLOW)
            async with asyncio.timeout(20):
                while not full.active:
                    await asyncio.sleep(0.01)
            try:
                yield balancer
            finally:
                holding.cancel()
                await asyncio.gather(holding, return_exceptions=True)


def url(balancer: Running) -> str:
    return f"http://127.0.0.1:{balancer.port}"


MESSAGES: Any = [{"role": "user", "content": "hi"}]

Create = Callable[[Any, str], Any]
"""Asks a model by a client of a package."""

Ask = Callable[[str, str], Awaitable[None]]
"""Asks a model by a key, and reads all of the response."""


async def _read(created: Any) -> None:
    if not hasattr(created, "__aiter__"):
        return
    async for event in created:
        if getattr(event, "type", "") == "response.failed":  # it is for whoever reads the stream
            raise openai.OpenAIError("the response failed")


def by_openai(balancer: Running, *, stream: bool) -> list[Ask]:
    """Ask by OpenAI's package, with each of its APIs."""

    async def ask(create: Create, model: str, key: str) -> None:
        base = f"{url(balancer)}/v1"
        async with openai.AsyncOpenAI(base_url=base, api_key=key, max_retries=0) as client:
            await _read(await create(client, model))

    return [
        partial(
            ask, lambda c, m: c.chat.completions.create(model=m, messages=MESSAGES, stream=stream)
        ),
        partial(ask, lambda c, m: c.completions.create(model=m, prompt="hi", stream=stream)),
        partial(ask, lambda c, m: c.responses.create(model=m, input="hi", stream=stream)),
    ]


def by_anthropic(balancer: Running, *, stream: bool) -> list[Ask]:
    """Ask by Anthropic's package."""

    async def ask(model: str, key: str) -> None:
        async with anthropic.AsyncAnthropic(
            base_url=url(balancer), auth_token=key, max_retries=0
        ) as client:
            message: Any = {"model": model, "max_tokens": 9, "messages": MESSAGES}
            await _read(await client.messages.create(**message, stream=stream))

    return [ask]


def by_ollama(balancer: Running, *, stream: bool) -> list[Ask]:
    """Ask by Ollama's package, with both of its APIs."""

    async def ask(create: Create, model: str, key: str) -> None:
        client = ollama.AsyncClient(url(balancer), headers={"authorization": f"Bearer {key}"})
        try:
            await _read(await create(client, model))
        finally:
            await client._client.aclose()

    return [
        partial(ask, lambda c, m: c.chat(m, MESSAGES, stream=stream)),
        partial(ask, lambda c, m: c.generate(m, "hi", stream=stream)),
    ]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_packages_for_python_raise_their_errors(stream: bool) -> None:
    async with failing() as balancer:
        for case, (model, key, code, of_streams) in CASES.items():
            if of_streams and not stream:
                continue
            asks = [
                *((ask, openai.OpenAIError) for ask in by_openai(balancer, stream=stream)),
                *((ask, anthropic.APIError) for ask in by_anthropic(balancer, stream=stream)),
                *((ask, ollama.ResponseError) for ask in by_ollama(balancer, stream=stream)),
            ]
            raised = await asyncio.gather(
                *(ask(model, key) for ask, _ in asks), return_exceptions=True
            )
            for error, (_, kind) in zip(raised, asks, strict=True):
                assert isinstance(error, kind), (case, error)
                _check(case, error, code)


def _check(case: str, error: object, code: int) -> None:
    """Check an error's status, and its class, which that decides where no stream had begun."""
    found = getattr(error, "status_code", None)
    assert str(error), case
    if found not in (None, -1, 200):
        assert found == code, (case, error)
        if not isinstance(error, ollama.ResponseError):
            assert type(error).__name__ in NAMES[code], (case, error)
    else:
        assert code in (200, 502, 503, 400), case  # a stream that had shown life


SCRIPT = Path(__file__).with_name("client_errors.mjs")


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
@pytest.mark.timeout(180)
async def test_the_packages_for_javascript_raise_their_errors(tmp_path: Path) -> None:
    await _run(
        *("npm", "install", "--silent", "--no-audit", "--no-fund"),
        *("openai", "@anthropic-ai/sdk", "ollama"),
        cwd=tmp_path,
    )
    shutil.copy(SCRIPT, tmp_path)
    async with failing() as balancer:
        cases = {case: {"model": m, "key": k, "streams": s} for case, (m, k, _, s) in CASES.items()}
        told = await _run("node", SCRIPT.name, url(balancer), json.dumps(cases), cwd=tmp_path)
    found = [json.loads(line) for line in told.splitlines()]

    assert len(found) == 6 * (2 * len(CASES) - 2)
    for one in found:
        code = CASES[one["case"]][2]
        assert one["raised"], one
        if one["status"] and code != 200:
            assert one["status"] == code, one
        if one["status"] and code != 200 and one["client"] != "ollama":
            assert one["name"] in NAMES[code], one


async def _run(*command: str, cwd: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()[-3000:]
    return output.decode()
