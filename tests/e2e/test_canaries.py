"""What clients write, and what opens the balancer, stands in no output of it."""

import json

import pytest

from tests.fakes.model_host import ModelHost, stream
from tests.fakes.process import balancing
from tests.fakes.sockets import Message, Visit, bearer, get, ok, post

pytestmark = pytest.mark.anyio

KEY, ADMIN, METRICS = "sk-canary-key-012345", "admin-canary-0123456", "metrics-canary-01234"
WRONG, TOKEN = "sk-canary-wrong-01234", "canary-join-token-01"
SECRETS = {
    "key": KEY,
    "admin key": ADMIN,
    "metrics key": METRICS,
    "wrong key": WRONG,
    "prompt": "canary-prompt",
    "system": "canary-system",
    "tool": "canary-tool",
    "response": "canary-response",
    "query": "canary-query",
    "cookie": "canary-cookie",
    "body that is no JSON": "canary-broken",
    "token in a path": "canary-path-0123456789abcdef",
    "join token": TOKEN,
    "server's key": "sk-canary-server-0123",
    "server's header": "canary-header",
}


async def answer(visit: Visit, message: Message) -> bytes | None:
    body = json.loads(message.body)
    if body.get("stream"):
        return await stream(visit, message)
    said = {"role": "assistant", "content": SECRETS["response"]}
    choice = {"index": 0, "finish_reason": "stop", "message": said}
    return ok(json.dumps({"choices": [choice]}).encode(), b"content-type: application/json")


def keyed(port: int) -> dict[str, object]:
    """Write a server that has a key and a secret header; port 0 is a mistake."""
    secret = {"api_key": SECRETS["server's key"], "headers": {"x-a": SECRETS["server's header"]}}
    return {"addr": "http://10.255.255.1", "model_port": port, **secret}


def put(path: bytes, key: str, body: object) -> bytes:
    return b"PUT" + post(json.dumps(body).encode(), path, bearer(key))[4:]


def asked(prompt: str, **more: object) -> bytes:
    said = [
        {"role": "system", "content": f"{SECRETS['system']} " * 40},
        {"role": "user", "content": f"{prompt} " * 40},
    ]
    tools = [{"type": "function", "function": {"name": SECRETS["tool"]}}]
    return json.dumps({"model": "m", "messages": said, "tools": tools, **more}).encode()


@pytest.mark.parametrize("level", ["debug", "info"])
async def test_no_secret_and_no_prompt_is_in_any_output(level: str) -> None:
    host = ModelHost(answer)
    chat = b"/v1/chat/completions?k=" + SECRETS["query"].encode()
    cookie = f"cookie: a={SECRETS['cookie']}".encode()
    settings = {
        "api_keys": json.dumps({"alice": KEY}),
        "admin_key": ADMIN,
        "metrics_key": METRICS,
        "join_token": TOKEN,
        "log_level": level,
        "stable_prompts": "learn",
    }
    async with host.running():
        async with balancing({"A": host}, None, ready=False, **settings) as balancer:  # type: ignore[arg-type]
            for request in (
                post(asked(SECRETS["prompt"]), chat, bearer(KEY), cookie),
                post(asked(SECRETS["prompt"] + "2"), chat, bearer(KEY), cookie),
                post(asked(SECRETS["prompt"], stream=True), chat, bearer(KEY)),
                post(b'{"model": ' + SECRETS["body that is no JSON"].encode(), chat, bearer(KEY)),
                post(asked("x"), chat, bearer(WRONG)),
                post(asked("x", model="unknown"), chat, bearer(KEY)),
                get(b"/" + SECRETS["token in a path"].encode() + b"?x=canary-query", bearer(KEY)),
                post(f"key={WRONG}".encode(), b"/llmhealth-login"),
                b"GET /canary-path-0123456789abcdef HTTP/9.9\r\nx: canary-query\r\n\r\n",
            ):
                await balancer.ask(request)
            orders = (
                put(b"/llmhealth-join/pc", TOKEN, {"servers": {"J": keyed(8081)}}),
                put(b"/llmhealth-join/pc", TOKEN, {"servers": {"J": keyed(0)}}),
                put(b"/llmhealth-servers/N", ADMIN, keyed(8082)),
                put(b"/llmhealth-servers/N", ADMIN, keyed(0)),
            )
            paths = (
                b"/metrics",
                b"/llmhealth-snapshot",
                b"/llmhealth-requests",
                b"/llmhealth-usage",
                b"/access-log-stats",
                b"/llmhealth-monitor",
                b"/llmhealth-targets",
                b"/llmhealth-servers",
            )
            reading = [get(path, bearer(ADMIN)) for path in paths]
            outputs = [(await balancer.ask(request)).body for request in (*orders, *reading)]
            explained = post(asked(SECRETS["prompt"]), b"/llmhealth-explain", bearer(ADMIN))
            outputs.append((await balancer.ask(explained)).body)
            await balancer.until(lambda: len(balancer.events("request")) >= 7)
            outputs.append(json.dumps(balancer.log()).encode())

    written = b"\n".join(outputs)
    assert b'"alice"' in written
    assert b'"J"' in written
    assert b'"N"' in written
    found = [name for name, secret in SECRETS.items() if secret.encode() in written]
    assert found == []
