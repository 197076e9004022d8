"""Who may see and steer the balancer itself, where there are keys."""

import asyncio
import json
import re
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.fakes.model_host import ModelHost
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import Message, bearer, get, post

pytestmark = pytest.mark.anyio

ALICE, ADMIN, SCRAPER = "sk-alice-0123456789", "admin-0123456789", "scraper-0123456789"
PAGE = b"/llmhealth-monitor"
HTML = b"accept: text/html,*/*"


def guarded(
    server: ModelHost | Mapping[str, object], **settings: object
) -> AbstractAsyncContextManager[Running]:
    given: dict[str, Any] = {"api_keys": json.dumps({"alice": ALICE}), "admin_key": ADMIN}
    return balancing({"A": server}, ready=False, **(given | settings))


def logging_in(key: str, *headers: bytes, path: str = "/llmhealth-monitor") -> bytes:
    form = urlencode({"key": key, "path": path}).encode()
    return post(form, b"/llmhealth-login", *headers)


def cookie_of(response: Message) -> str:
    """Read the cookie that a response sets, with what is said about it."""
    return dict(response.headers)["set-cookie"]


async def session(balancer: Running) -> bytes:
    """Log in, and write the header that a browser would send from then on."""
    response = await balancer.ask(logging_in(ADMIN))
    return b"cookie: theme=dark; " + cookie_of(response).partition(";")[0].encode()


async def test_who_has_not_logged_in_is_shown_the_form_and_scripts_an_error() -> None:
    host = ModelHost()
    async with host.running(), guarded(host) as balancer:
        person = await balancer.ask(get(PAGE, HTML))
        script = await balancer.get("/llmhealth-snapshot")

    assert person.status == script.status == 401
    assert b'type="password"' in person.body
    assert "form-action 'self'" in dict(person.headers)["content-security-policy"]
    assert json.loads(script.body)["error"]["type"] == "authentication_error"


async def test_a_session_opens_the_pages_until_it_ends() -> None:
    host = ModelHost()
    async with host.running(), guarded(host) as balancer:
        begun = await balancer.ask(logging_in(ADMIN, path="/metrics"))
        cookie = await session(balancer)
        pages = [
            await balancer.ask(get(path, cookie))
            for path in (PAGE, b"/metrics", b"/llmhealth-snapshot", b"/access-log-stats")
        ]
        ended = await balancer.ask(post(b"", b"/llmhealth-logout", cookie))
        await balancer.until(lambda: balancer.events("admin.logged_in"))
        event = balancer.events("admin.logged_in")[0]

    assert (begun.status, dict(begun.headers)["location"]) == (303, "/metrics")
    flags = cookie_of(begun).split("; ")[1:]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(flags)
    assert "Secure" not in flags
    assert [page.status for page in pages] == [200] * 4
    assert event["address"] == "127.0.0.1"
    assert "Max-Age=0" in cookie_of(ended)


async def test_a_session_that_came_by_tls_stays_with_tls() -> None:
    host = ModelHost()
    async with host.running(), guarded(host) as balancer:
        behind = await balancer.ask(logging_in(ADMIN, b"x-forwarded-proto: https"))
    async with (
        host.running(),
        guarded(host, trusted_proxies="10.0.0.0/8") as balancer,
    ):
        invented = await balancer.ask(logging_in(ADMIN, b"x-forwarded-proto: https"))

    assert "Secure" in cookie_of(behind).split("; ")
    assert "Secure" not in cookie_of(invented).split("; ")


async def test_a_cookie_that_nobody_signed_opens_nothing() -> None:
    host = ModelHost()
    async with host.running(), guarded(host) as balancer:
        cookie = await session(balancer)
        name, _, value = cookie.partition(b"session=")
        end, _, signature = value.partition(b".")
        forged = [
            value[:-1] + b"0" if value[-1:] != b"0" else value[:-1] + b"1",
            b"%d.%b" % (int(end) + 1, signature),
            b"99999999999." + b"0" * 64,
            signature,
            b"." + signature,
            b"\xb2." + signature,
            b"",
        ]
        statuses = [
            (await balancer.ask(get(PAGE, name + b"session=" + one))).status for one in forged
        ]

    assert statuses == [401] * len(forged)


@pytest.mark.parametrize(
    "path", ["//evil.example", "https://evil.example/", "/v1/models%0d%0ax: y", "javascript:x", ""]
)
async def test_after_logging_in_one_gets_to_a_page_of_ours(path: str) -> None:
    host = ModelHost()
    async with host.running(), guarded(host) as balancer:
        response = await balancer.ask(logging_in(ADMIN, path=path))

    assert dict(response.headers)["location"] == "/llmhealth-monitor"


async def test_a_page_from_elsewhere_orders_nothing_with_what_a_browser_sends_by_itself() -> None:
    host = ModelHost()
    drain = b"/llmhealth-drain/A"
    async with host.running(), guarded(host) as balancer:
        cookie = await session(balancer)
        here = b"origin: http://127.0.0.1:%d" % balancer.port
        host_field = b"host: 127.0.0.1:%d" % balancer.port
        refused = [
            await balancer.ask(post(b"", drain, cookie, *headers))
            for headers in (
                (b"origin: http://evil.example",),
                (b"origin: null",),
                (b"sec-fetch-site: cross-site",),
                (b"sec-fetch-site: same-site", here),
            )
        ]
        old_browser = re.sub(b"host: [^\r]+", host_field, post(b"", drain, cookie, here))
        allowed = await balancer.ask(old_browser)
        ours = post(b"", drain, cookie, b"sec-fetch-site: same-origin")
        taken_back = await balancer.ask(ours.replace(b"POST", b"DELETE"))
        await balancer.until(lambda: balancer.events("admin.drain"))
        event = balancer.events("admin.drain")[0]
        by_key = await balancer.ask(post(b"", drain, bearer(ADMIN), b"origin: http://evil.example"))

    assert {response.status for response in refused} == {403}
    assert (allowed.status, taken_back.status, by_key.status) == (200, 200, 200)
    assert (event["server"], event["on"], event["address"]) == ("A", True, "127.0.0.1")


async def test_a_server_never_gets_the_cookie_of_a_session() -> None:
    host = ModelHost()
    async with host.running():
        server = {"addr": f"http://127.0.0.1:{host.port}", "forward_credentials": True}
        async with guarded(server) as balancer:
            cookie = await session(balancer)
            body = json.dumps({"model": "m", "messages": []}).encode()
            await balancer.ask(post(body, b"/v1/chat/completions", bearer(ALICE), cookie))
            alone = cookie.replace(b"theme=dark; ", b"")
            await balancer.ask(post(body, b"/v1/chat/completions", bearer(ALICE), alone))

    first, second = (dict(message.headers) for message in host.seen)
    assert first["cookie"] == "theme=dark"
    assert "cookie" not in second


async def test_the_metrics_key_opens_the_metrics_alone() -> None:
    host = ModelHost()
    body = json.dumps({"model": "m", "messages": []}).encode()
    async with host.running(), guarded(host, metrics_key=SCRAPER) as balancer:
        opened = [
            (await balancer.ask(get(path, bearer(SCRAPER)))).status
            for path in (b"/metrics", b"/llmhealth-targets")
        ]
        closed = [
            (await balancer.ask(request)).status
            for request in (
                get(PAGE, bearer(SCRAPER)),
                get(b"/v1/models", bearer(SCRAPER)),
                post(body, b"/v1/chat/completions", bearer(SCRAPER)),
                post(b"", b"/llmhealth-drain/A", bearer(SCRAPER)),
            )
        ]

    assert opened == [200, 200]
    assert closed == [401] * 4


async def test_metrics_need_their_key_once_there_is_one_and_nothing_else_does() -> None:
    host = ModelHost()
    async with host.running(), balancing({"A": host}, metrics_key=SCRAPER) as balancer:
        metrics = await balancer.get("/metrics")
        page = await balancer.get("/llmhealth-snapshot")

    assert (metrics.status, page.status) == (401, 200)


async def test_an_endpoint_is_open_to_a_network_by_the_connections_own_address() -> None:
    host = ModelHost()
    opened = json.dumps({"/metrics": ["127.0.0.1"], "/llmhealth-snapshot": ["10.0.0.0/8"]})
    claim = b"x-forwarded-for: 10.1.1.1"
    async with host.running(), guarded(host, open_endpoints=opened) as balancer:
        metrics = await balancer.ask(get(b"/metrics", b"x-forwarded-for: 8.8.8.8"))
        snapshot = await balancer.ask(get(b"/llmhealth-snapshot", claim))
        drain = await balancer.ask(post(b"", b"/llmhealth-drain/A"))

    assert (metrics.status, snapshot.status, drain.status) == (200, 401, 401)


async def test_who_guesses_waits_and_a_right_key_from_there_does_not() -> None:
    host = ModelHost()
    body = json.dumps({"model": "m", "messages": []}).encode()
    wrong = [post(body, b"/v1/chat/completions", bearer(f"sk-wrong-{n:09}")) for n in range(4)]
    wrong += [get(b"/metrics", bearer(f"admin-wrong-{n:09}")) for n in range(4)]
    wrong += [logging_in(f"admin-wrong-{n:09}") for n in range(4)]
    async with host.running(), guarded(host) as balancer:
        begun = time.monotonic()
        guesses = [asyncio.create_task(balancer.ask(request)) for request in wrong]
        await balancer.until(lambda: sum(guess.done() for guess in guesses) >= 4)
        right = await balancer.ask(post(body, b"/v1/chat/completions", bearer(ALICE)))
        still_waiting = sum(not guess.done() for guess in guesses)
        statuses = {response.status for response in await asyncio.gather(*guesses)}
        waited = time.monotonic() - begun
        await balancer.until(lambda: balancer.events("key.wrong"))
        events = balancer.events("key.wrong")

    assert right.status == 200
    assert still_waiting >= 4
    assert statuses == {401}
    assert waited > 5
    assert [(event["address"], event["level"]) for event in events] == [("127.0.0.1", "warning")]


async def test_who_shows_no_key_is_told_so_at_once() -> None:
    host = ModelHost()
    async with host.running(), guarded(host) as balancer:
        begun = time.monotonic()
        statuses = {(await balancer.get("/metrics")).status for _ in range(30)}

    assert statuses == {401}
    assert time.monotonic() - begun < 10


async def test_a_client_that_leaves_before_it_is_refused_leaves_nothing_behind() -> None:
    host = ModelHost()
    request = post(b"{}", b"/v1/chat/completions", bearer("sk-wrong-0123456789"))
    async with host.running(), guarded(host) as balancer:
        for _ in range(20):
            async with balancer.client() as client:
                await client.say(request)
        await balancer.until(lambda: _in_flight(balancer, 0))

    assert host.seen == []


async def _in_flight(balancer: Running, count: int) -> bool:
    text = (await balancer.ask(get(b"/metrics", bearer(ADMIN)))).body.decode()
    found = re.search(r'requests_in_flight\{endpoint="/v1/chat/completions"\} (\d+)', text)
    return found is not None and int(found[1]) == count


async def test_the_log_warns_of_what_others_can_reach_without_a_key() -> None:
    host = ModelHost()
    async with host.running(), balancing({"A": host}, host="0.0.0.0") as balancer:
        await balancer.until(lambda: balancer.events("keys.none"))
        [event] = balancer.events("keys.none")
    async with host.running(), guarded(host, host="0.0.0.0") as balancer:
        await balancer.get("/llmhealth")
        assert balancer.events("keys.none") == []

    assert event["level"] == "warning"
    assert "BALANCER_API_KEYS" in event["hint"]
    assert "BALANCER_INSECURE" in event["hint"]
