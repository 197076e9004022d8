"""What pages of other sites can do with a balancer in a visitor's network, and what they cannot."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.balancer import balancer
from tests.fakes.browser import AVAILABLE, Browser, browser
from tests.fakes.model_host import ModelHost, status, stream
from tests.fakes.ports import free_port
from tests.fakes.process import balancing
from tests.fakes.sockets import Message, Visit, get, ok, post

pytestmark = pytest.mark.anyio

ALICE = "sk-alice-0123456789"
EVIL = b"origin: https://evil.example"
APP = b"origin: app://obsidian.md"
CHAT = b"/v1/chat/completions"
ASKED = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()


async def reflects(visit: Visit, message: Message) -> bytes | None:
    """Answer as servers do that let every page in."""
    origin = b"access-control-allow-origin: https://evil.example"
    own = (origin, b"access-control-allow-credentials: true")
    return ok(b'{"choices":[]}', b"content-type: application/json", *own)


def grants(response: Message) -> dict[str, str]:
    return {n: v for n, v in response.headers if n.startswith("access-control-")}


def preflight(origin: bytes, path: bytes = CHAT) -> bytes:
    asked = b"access-control-request-method: POST"
    names = b"access-control-request-headers: authorization,content-type"
    return get(path, origin, asked, names, method=b"OPTIONS")


async def test_a_page_from_elsewhere_runs_no_model_and_reads_nothing() -> None:
    host = ModelHost(reflects)
    async with host.running(), balancing({"A": host}) as balancer:
        plain = await balancer.ask(post(ASKED, CHAT, EVIL, b"content-type: text/plain"))
        form = await balancer.ask(
            post(b"a=b", b"/anything", EVIL, b"content-type: application/x-www-form-urlencoded")
        )
        sandboxed = await balancer.ask(post(ASKED, CHAT, b"origin: null"))
        asked = await balancer.ask(preflight(EVIL))
        socket = await balancer.ask(
            get(b"/ws", EVIL, b"connection: upgrade", b"upgrade: websocket")
        )
        read = await balancer.ask(get(b"/v1/models", EVIL))
        own = await balancer.ask(get(b"/llmhealth-snapshot", EVIL))

    refused = [plain, form, sandboxed, asked, socket]
    assert [response.status for response in refused] == [403] * 5
    assert "BALANCER_CORS_ORIGINS" in json.loads(plain.body)["error"]["message"]
    assert host.seen == []
    assert [grants(response) for response in [*refused, read, own]] == [{}] * 7


async def test_a_page_that_may_ask_is_told_so_in_our_words_alone() -> None:
    host = ModelHost(reflects)
    async with host.running(), balancing({"A": host}) as balancer:
        asked = await balancer.ask(preflight(APP))
        answered = await balancer.ask(post(ASKED, CHAT, APP))
        models = await balancer.ask(get(b"/v1/models", APP))
        without = await balancer.ask(post(ASKED, CHAT))

    assert asked.status == 204
    assert grants(asked)["access-control-allow-headers"] == "authorization,content-type"
    assert "POST" in grants(asked)["access-control-allow-methods"]
    for response in (asked, answered, models):
        told = grants(response)
        assert told["access-control-allow-origin"] == "app://obsidian.md"
        assert "access-control-allow-credentials" not in told
        assert "x-balancer-server" in told["access-control-expose-headers"]
        assert ("vary", "origin") in response.headers
    assert len(host.seen) == 2
    assert "access-control-allow-credentials" in grants(without), "no page: nothing is changed"


async def test_a_page_can_read_errors_and_streams_too() -> None:
    async def handle(visit: Visit, message: Message) -> bytes | None:
        if json.loads(message.body).get("stream"):
            return await stream(visit, message)
        return status(400)

    host = ModelHost(handle)
    async with host.running(), balancing({"A": host.limited(1)}, queue_max=0) as balancer:
        streamed = await balancer.ask(
            post(json.dumps({"model": "m", "stream": True}).encode(), CHAT, APP)
        )
        failed = await balancer.ask(post(ASKED, CHAT, APP))
        bad = await balancer.ask(post(b"{", CHAT, APP))

    assert (streamed.status, failed.status, bad.status) == (200, 400, 400)
    assert all(grants(response) for response in (streamed, failed, bad))


async def test_with_keys_any_page_may_ask_and_needs_one() -> None:
    host = ModelHost()
    keys = json.dumps({"alice": ALICE})
    async with host.running(), balancing({"A": host}, ready=False, api_keys=keys) as balancer:
        asked = await balancer.ask(preflight(EVIL))
        refused = await balancer.ask(post(ASKED, CHAT, EVIL))
        key = f"authorization: Bearer {ALICE}".encode()
        answered = await balancer.ask(post(ASKED, CHAT, EVIL, key))
        models = await balancer.ask(get(b"/v1/models", EVIL))
        own = await balancer.ask(get(b"/metrics", EVIL))

    assert [r.status for r in (asked, refused, answered, models, own)] == [204, 401, 200, 401, 403]
    for response in (asked, refused, answered, models):
        assert grants(response)["access-control-allow-origin"] == "*"
    assert grants(own) == {}


async def test_a_name_that_somebody_points_here_opens_nothing_but_the_health() -> None:
    host = ModelHost()

    def called(request: bytes, name: bytes) -> bytes:
        head, _, rest = request.partition(b"host: ")
        return head + b"host: " + name + rest[rest.index(b"\r\n") :]

    async with host.running(), balancing({"A": host}, allowed_hosts="*.team.example") as balancer:
        rebound = [
            await balancer.ask(called(request, b"evil.example:18000"))
            for request in (post(ASKED, CHAT), get(b"/v1/models"), get(b"/llmhealth-monitor"))
        ]
        health = await balancer.ask(called(get(b"/llmhealth"), b"gpu.example.net"))
        named = await balancer.ask(called(post(ASKED, CHAT), b"llm.team.example"))

    assert [response.status for response in rebound] == [403] * 3
    assert "BALANCER_ALLOWED_HOSTS" in json.loads(rebound[0].body)["error"]["message"]
    assert (health.status, named.status) == (200, 200)
    assert len(host.seen) == 1


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Browser]:
    with browser(tmp_path / "profile") as found:
        yield found


@pytest.mark.skipif(not AVAILABLE, reason="needs chromium and chromedriver")
def test_a_page_of_this_machine_reads_that_there_is_no_server(window: Browser) -> None:
    server = {"addr": "http://127.0.0.1", "model_port": free_port()}
    with (
        balancer({"gone": server}, {".*": ["gone"]}, ready=False) as asked,
        balancer({"gone": server}, {".*": ["gone"]}, ready=False) as elsewhere,
    ):
        window.open(elsewhere.url + "/llmhealth")  # a page of another origin on this machine
        window.evaluate(
            f"""
            window.told = null;
            fetch("{asked.url}/v1/chat/completions", {{
                method: "POST",
                headers: {{ "content-type": "application/json", authorization: "Bearer none" }},
                body: '{{"model":"m"}}',
            }}).then(
                (a) => (window.told = [a.status, a.headers.has("x-request-id")].join(" ")),
                (e) => (window.told = String(e)),
            );
            """
        )
        window.wait_until("window.told !== null")

        assert window.evaluate("return window.told") in ("502 true", "503 true")
