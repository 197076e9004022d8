"""Where there are keys, a client needs one; what it may use with it is the key's."""

import asyncio
import base64
import functools
import json
import os
import random
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from hashlib import sha256
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.fakes.model_host import STREAM_END, ModelHost, complete, event, stream
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import SSE, Message, Visit, bearer, chat, chunk, get, post

pytestmark = pytest.mark.anyio

RACING = int(os.environ.get("BALANCER_RACING", "80"))
"""How many clients race for a few keys, each asking once with every key."""

ALICE, SCRIPTS, ADMIN = "sk-alice-0123456789", "sk-scripts-0123456789", "admin-0123456789"
KEYS = {
    "alice": "sha256:" + sha256(ALICE.encode()).hexdigest(),
    "scripts": {"key": SCRIPTS, "models": ["small.*"]},
}
OWN = [
    "/llmhealth-monitor",
    "/llmhealth-monitor/events",
    "/llmhealth-requests",
    "/llmhealth-snapshot",
    "/llmhealth-usage",
]
OWN += ["/access-log-stats", "/metrics", "/llmhealth-targets"]


def guarded(
    host: ModelHost | Mapping[str, object], **settings: object
) -> AbstractAsyncContextManager[Running]:
    given: dict[str, Any] = {"api_keys": json.dumps(KEYS), "admin_key": ADMIN, **settings}
    return balancing({"A": host}, ready=False, **given)


def asking(key: str, path: bytes = b"/v1/chat/completions", **more: object) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **more}
    return post(json.dumps(body).encode(), path, bearer(key))


async def test_a_model_answers_those_alone_who_show_a_key() -> None:
    host = ModelHost()
    async with host.running(), guarded(host) as balancer:
        without = await balancer.ask(chat())
        wrong = await balancer.ask(asking(ALICE + "x"))
        right = await balancer.ask(asking(ALICE))

    assert (without.status, wrong.status, right.status) == (401, 401, 200)
    assert len(host.seen) == 1
    assert json.loads(without.body)["error"]["type"] == "authentication_error"
    assert dict(without.headers)["www-authenticate"] == "Bearer"


async def test_a_key_that_is_wrong_is_told_in_the_words_of_the_api() -> None:
    host = ModelHost()
    async with host.running(), guarded(host) as balancer:
        messages = await balancer.ask(post(b"{}", b"/v1/messages"))
        ollama = await balancer.ask(post(b"{}", b"/api/chat"))

    assert json.loads(messages.body)["error"]["type"] == "authentication_error"
    assert json.loads(messages.body)["type"] == "error"
    assert isinstance(json.loads(ollama.body)["error"], str)


async def test_a_body_is_not_asked_for_without_a_key() -> None:
    host = ModelHost()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: b\r\ncontent-length: 9\r\n"
    async with host.running(), guarded(host) as balancer:
        refused = await balancer.ask(head + b"expect: 100-continue\r\n\r\n")

    assert refused.status == 401


async def test_a_key_of_some_models_reaches_no_other_in_any_way() -> None:
    host = ModelHost()
    aliases = json.dumps({"tiny": "small", "small-looking": "m"})
    async with host.running(), guarded(host, aliases=aliases) as balancer:
        allowed = [
            (await balancer.ask(asking(SCRIPTS, model=name))).status for name in ("small", "tiny")
        ]
        served = len(host.seen)
        refused = [
            await balancer.ask(request)
            for request in (
                asking(SCRIPTS),
                asking(SCRIPTS, model="small-looking"),
                asking(SCRIPTS, model=""),
                asking(SCRIPTS, b"/v1/embeddings", model="small"),
                asking(SCRIPTS, b"/v1/chat/completions/"),
                asking(SCRIPTS, b"/anything"),
                get(b"/ws", bearer(SCRIPTS), b"connection: upgrade", b"upgrade: websocket"),
            )
        ]

    assert allowed == [200, 200]
    assert {response.status for response in refused} == {403}
    assert {json.loads(one.body)["error"]["type"] for one in refused} == {"permission_error"}
    assert len(host.seen) == served == 2


async def test_each_key_sees_the_models_that_it_may_use() -> None:
    host = ModelHost(models=["m", "small", "small-b"])
    async with host.running(), guarded(host) as balancer:
        await balancer.until(lambda: _listed(balancer, ALICE))
        everything = await _listed(balancer, ALICE)
        some = await _listed(balancer, SCRIPTS)
        without = await balancer.get("/v1/models")

    assert sorted(everything) == ["m", "small", "small-b"]
    assert sorted(some) == ["small", "small-b"]
    assert without.status == 401


async def _listed(balancer: Running, key: str) -> list[str]:
    response = await balancer.ask(get(b"/v1/models", bearer(key)))
    return [model["id"] for model in json.loads(response.body)["data"]]


async def test_the_balancers_own_pages_need_the_admin_key_from_this_machine_too() -> None:
    host = ModelHost()
    password = b"authorization: Basic " + base64.b64encode(f"me:{ADMIN}".encode())
    async with host.running(), guarded(host) as balancer:
        for path in OWN:
            assert (await balancer.get(path)).status == 401, path
            as_client = await balancer.ask(get(path.encode(), bearer(ALICE)))
            assert as_client.status == 403, path
        page = await balancer.ask(get(b"/llmhealth-monitor", password))
        numbers = await balancer.ask(get(b"/metrics", bearer(ADMIN)))
        explained = await balancer.ask(post(b'{"model":"m"}', b"/llmhealth-explain"))
        health = await balancer.get("/llmhealth")

    assert (page.status, numbers.status, explained.status, health.status) == (200, 200, 401, 200)


async def test_nobody_sees_the_pages_where_there_are_keys_and_no_admin_key() -> None:
    host = ModelHost()
    async with (
        host.running(),
        balancing({"A": host}, ready=False, api_keys=json.dumps(KEYS)) as balancer,
    ):
        refused = await balancer.ask(get(b"/metrics", bearer(ALICE)))

    assert refused.status == 403
    assert "BALANCER_ADMIN_KEY" in json.loads(refused.body)["error"]["message"]


async def test_a_server_gets_no_credentials_of_clients_unless_it_may() -> None:
    closed, told = ModelHost(), ModelHost()
    async with closed.running(), told.running():
        servers: dict[str, Mapping[str, object]] = {
            "A": {"addr": f"http://127.0.0.1:{closed.port}"},
            "B": {"addr": f"http://127.0.0.1:{told.port}", "forward_credentials": True},
        }
        models = {"m": ["A"], "n": ["B"]}
        async with balancing(servers, models, ready=False, api_keys=json.dumps(KEYS)) as balancer:
            for model in models:
                body = json.dumps({"model": model, "messages": []}).encode()
                headers = (bearer(ALICE), b"x-api-key: another", b"cookie: a=b")
                request = post(body, b"/v1/chat/completions", *headers)
                assert (await balancer.ask(request)).status == 200

    names = {"authorization", "x-api-key", "cookie"}
    assert not names & {name.lower() for name, _ in closed.seen[0].headers}
    assert names <= {name.lower() for name, _ in told.seen[0].headers}


async def test_orders_to_a_server_need_the_admin_key_where_there_are_keys() -> None:
    host = ModelHost()
    async with host.running(), guarded(host) as balancer:
        as_client = await balancer.ask(asking(ALICE, b"/api/delete"))
        as_admin = await balancer.ask(asking(ADMIN, b"/api/delete"))
    async with host.running(), guarded(host, pass_control=True) as balancer:
        opened = await balancer.ask(asking(ALICE, b"/api/delete"))

    assert (as_client.status, as_admin.status, opened.status) == (403, 200, 200)


async def test_who_asked_is_told_by_the_name_of_the_key_and_no_key_is_written_anywhere() -> None:
    host = ModelHost()
    async with host.running(), guarded(host, log_level="debug") as balancer:
        await balancer.ask(asking(ALICE))
        await balancer.ask(asking("sk-nobody-0123456789"))
        counted = json.loads((await balancer.ask(get(b"/access-log-stats", bearer(ADMIN)))).body)
        numbers = (await balancer.ask(get(b"/metrics", bearer(ADMIN)))).body.decode()
        shown = [(await balancer.ask(get(p.encode(), bearer(ADMIN)))).body for p in OWN[2:]]
        await balancer.until(lambda: len(balancer.events("request")) == 2)
        lines = balancer.events("request")
        written = json.dumps(balancer.log()).encode() + b"".join(shown)

    assert [line.get("key") for line in lines] == ["alice", None]
    assert counted["ip_counts"] == {"alice": 1}
    assert 'key_requests_total{key="alice",outcome="success"} 1.0' in numbers
    assert 'key_tokens_total{key="alice",kind="prompt"} 5.0' in numbers
    for secret in (ALICE, SCRIPTS, ADMIN, "sk-nobody-0123456789", KEYS["alice"]):
        assert str(secret).encode() not in written


async def test_a_key_asks_no_more_at_once_than_it_may_and_others_are_not_touched() -> None:
    let_go = asyncio.Event()

    async def late(visit: Visit, message: Message) -> bytes | None:
        await let_go.wait()
        return await complete(visit, message)

    host = ModelHost(late)
    keys = {"alice": {"key": ALICE, "request_max": 3}, "bob": SCRIPTS}
    async with host.running(), guarded(host, api_keys=json.dumps(keys)) as balancer:
        asked = [asyncio.create_task(balancer.ask(asking(ALICE))) for _ in range(20)]
        await balancer.until(lambda: sum(task.done() for task in asked) == 17)
        other = asyncio.create_task(balancer.ask(asking(SCRIPTS)))
        await balancer.until(lambda: host.active == 4)
        let_go.set()
        statuses = [answer.status for answer in await asyncio.gather(*asked)]
        assert (await other).status == 200
        assert (await balancer.ask(asking(ALICE))).status == 200

    assert sorted(statuses) == [200] * 3 + [429] * 17


async def test_a_key_asks_no_more_often_than_it_may() -> None:
    host = ModelHost()
    keys = {"alice": {"key": ALICE, "requests_per_minute": 3}}
    async with host.running(), guarded(host, api_keys=json.dumps(keys)) as balancer:
        answers = await asyncio.gather(*[balancer.ask(asking(ALICE)) for _ in range(12)])

    refused = [answer for answer in answers if answer.status == 429]
    assert len(refused) == 9
    assert len(host.seen) == 3
    assert json.loads(refused[0].body)["error"]["type"] == "rate_limit_error"
    assert 50 <= int(dict(refused[0].headers)["retry-after"]) <= 60


async def test_a_key_of_a_higher_priority_goes_first_and_a_request_lowers_itself_alone() -> None:
    order: list[str] = []
    let_go = asyncio.Event()

    async def late(visit: Visit, message: Message) -> bytes | None:
        order.append(json.loads(message.body)["messages"][0]["content"])
        await let_go.wait()
        return await complete(visit, message)

    host = ModelHost(late)
    keys = {
        "people": {"key": ALICE, "priority": "interactive"},
        "batch": {"key": SCRIPTS, "priority": "batch"},
    }
    given = {"api_keys": json.dumps(keys), "affinity": "client"}
    async with host.running(), guarded(host.limited(1), **given) as balancer:
        asked = []
        for number, (key, wish) in enumerate(
            [(ALICE, ""), (SCRIPTS, "interactive"), (ALICE, "batch"), (ALICE, "")], 1
        ):
            headers = [bearer(key)]
            if wish:
                headers.append(f"x-balancer-priority: {wish}".encode())
            body = {"model": "m", "messages": [{"role": "user", "content": f"{key} {wish}"}]}
            request = post(json.dumps(body).encode(), b"/v1/chat/completions", *headers)
            asked.append(asyncio.create_task(balancer.ask(request)))
            if number == 1:
                await balancer.until(lambda: host.active == 1)
            else:
                await balancer.until(functools.partial(_waits, balancer, number - 1))
        let_go.set()
        await asyncio.gather(*asked)
        wrong = await balancer.ask(
            post(b"{}", b"/v1/chat/completions", bearer(ALICE), b"x-balancer-priority: urgent")
        )

    assert order == [f"{ALICE} ", f"{ALICE} ", f"{SCRIPTS} interactive", f"{ALICE} batch"]
    assert wrong.status == 400
    assert "interactive, normal, batch" in json.loads(wrong.body)["error"]["message"]


async def _waits(balancer: Running, requests: int) -> bool:
    snapshot = await balancer.ask(get(b"/llmhealth-snapshot", bearer(ADMIN)))
    waiting: int = json.loads(snapshot.body)["queue"]["waiting"]
    return waiting == requests


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":70,"completion_tokens":30}}\n\n'


async def tells_if_asked(visit: Visit, message: Message) -> bytes | None:
    """Stream, and tell the usage as vLLM does: only if asked."""
    asked = json.loads(message.body).get("stream_options", {}).get("include_usage")
    return SSE + event() + (chunk(USAGE) if asked else b"") + STREAM_END


async def test_tokens_of_streams_count_though_their_client_does_not_ask_for_them() -> None:
    host = ModelHost(tells_if_asked)
    keys = {"alice": {"key": ALICE, "tokens_per_minute": 150}, "bob": SCRIPTS}
    async with host.running():
        server = {"addr": f"http://127.0.0.1:{host.port}", "health": "vllm"}
        async with guarded(server, api_keys=json.dumps(keys)) as balancer:
            await balancer.until(lambda: _listed(balancer, SCRIPTS))
            free = await balancer.ask(asking(SCRIPTS, stream=True))
            own = await balancer.ask(
                asking(SCRIPTS, stream=True, stream_options={"include_usage": True})
            )
            answers = [await balancer.ask(asking(ALICE, stream=True)) for _ in range(3)]
            metrics = await balancer.ask(get(b"/metrics", bearer(ADMIN)))

    assert USAGE not in free.body
    assert USAGE in own.body
    assert free.body == own.body.replace(USAGE, b"")
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert 50 <= int(dict(answers[2].headers)["retry-after"]) <= 60
    numbers = metrics.body.decode()
    assert 'key_tokens_total{key="alice",kind="prompt"} 140.0' in numbers
    assert 'key_tokens_estimated_total{key="alice"} 0.0' in numbers


async def test_tokens_that_no_server_tells_are_estimated_and_marked() -> None:
    host = ModelHost(stream)
    keys = {"alice": {"key": ALICE, "tokens_per_minute": 150}}
    async with host.running(), guarded(host, api_keys=json.dumps(keys)) as balancer:
        request = asking(ALICE, stream=True, messages=[{"role": "user", "content": "a" * 800}])
        answers = [await balancer.ask(request) for _ in range(2)]
        metrics = await balancer.ask(get(b"/metrics", bearer(ADMIN)))

    assert [answer.status for answer in answers] == [200, 429]
    assert b"stream_options" not in host.seen[0].body
    numbers = metrics.body.decode()
    assert 'key_tokens_total{key="alice",kind="completion"} 1.0' in numbers
    assert re.search(r'key_tokens_estimated_total\{key="alice"\} 20\d\.0', numbers)


async def test_a_key_is_none_after_its_end() -> None:
    host = ModelHost()
    keys = {
        "alice": {"key": ALICE, "expires": "2020-01-01T00:00:00Z"},
        "scripts": {"key": SCRIPTS, "expires": "2120-01-01T00:00:00Z"},
    }
    async with host.running(), guarded(host, api_keys=json.dumps(keys)) as balancer:
        assert (await balancer.ask(asking(ALICE))).status == 401
        assert (await balancer.ask(asking(SCRIPTS))).status == 200


async def test_the_file_of_keys_is_read_again_when_it_changes(tmp_path: Path) -> None:
    host = ModelHost()
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"alice": ALICE}))

    async with host.running(), guarded(host, api_keys="{}", api_keys_file=file) as balancer:
        assert await _status(balancer, ALICE) == 200
        assert await _status(balancer, SCRIPTS) == 401
        file.write_text(json.dumps({"scripts": SCRIPTS}))
        await balancer.until(lambda: _is_refused(balancer, ALICE))
        assert await _status(balancer, SCRIPTS) == 200
        file.write_text("{")
        await balancer.until(lambda: balancer.events("files.refused"))
        assert await _status(balancer, SCRIPTS) == 200
        file.write_text("{}")
        await balancer.until(lambda: _is_refused(balancer, SCRIPTS))


async def test_a_folder_of_keys_is_read_again_when_a_file_in_it_changes(tmp_path: Path) -> None:
    host = ModelHost()
    (tmp_path / "alice").write_text(ALICE)

    async with host.running(), guarded(host, api_keys="{}", api_keys_file=tmp_path) as balancer:
        assert await _status(balancer, ALICE) == 200
        (tmp_path / "alice").write_text(SCRIPTS)
        await balancer.until(lambda: _is_refused(balancer, ALICE))
        assert await _status(balancer, SCRIPTS) == 200
        (tmp_path / "alice").unlink()
        await balancer.until(lambda: _is_refused(balancer, SCRIPTS))


async def _status(balancer: Running, key: str) -> int:
    return (await balancer.ask(asking(key))).status


async def _is_refused(balancer: Running, key: str) -> bool:
    return await _status(balancer, key) == 401


async def test_a_key_that_is_taken_away_leaves_its_requests_to_end(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"alice": ALICE}))
    let_go = asyncio.Event()

    async def late(visit: Visit, message: Message) -> bytes | None:
        await let_go.wait()
        return await complete(visit, message)

    host = ModelHost(late)
    async with host.running(), guarded(host, api_keys="{}", api_keys_file=file) as balancer:
        under_way = asyncio.create_task(balancer.ask(asking(ALICE)))
        await balancer.until(lambda: host.seen)
        file.write_text("{}")
        await balancer.until(lambda: balancer.events("files.changed"))
        assert (await balancer.ask(asking(ALICE))).status == 401
        let_go.set()
        assert (await under_way).status == 200


async def test_the_packages_of_openai_and_anthropic_know_why_they_are_refused() -> None:
    host = ModelHost()
    keys = {"alice": {"key": ALICE, "models": ["small"], "requests_per_minute": 1}}
    async with host.running(), guarded(host, api_keys=json.dumps(keys)) as balancer:
        url = f"http://127.0.0.1:{balancer.port}"

        async def ask(key: str, model: str = "small") -> None:
            async with openai.AsyncOpenAI(
                base_url=f"{url}/v1", api_key=key, max_retries=0
            ) as client:
                await client.chat.completions.create(
                    model=model, messages=[{"role": "user", "content": "hi"}]
                )

        await ask(ALICE)
        with pytest.raises(openai.AuthenticationError):
            await ask("sk-nobody")
        with pytest.raises(openai.PermissionDeniedError):
            await ask(ALICE, "m")
        with pytest.raises(openai.RateLimitError):
            await ask(ALICE)
        async with anthropic.AsyncAnthropic(
            base_url=url, api_key="sk-nobody", max_retries=0
        ) as client:
            with pytest.raises(anthropic.AuthenticationError):
                await client.messages.create(
                    model="small", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
                )


async def test_limits_hold_exactly_whatever_races() -> None:
    host = ModelHost()
    secrets = [f"sk-number-{number:02}-0123456789" for number in range(20)]
    keys = {
        f"key{number}": {"key": secret, "requests_per_minute": 30 + number}
        for number, secret in enumerate(secrets)
    }
    tally: Counter[tuple[str, int]] = Counter()

    async def go_on_asking(balancer: Running, order: list[str]) -> None:
        async with balancer.client() as client:
            for secret in order:
                await client.say(asking(secret))
                tally[secret, (await client.message()).status] += 1

    async with host.running(), guarded(host, api_keys=json.dumps(keys)) as balancer:
        dice = random.Random(17)
        orders = [dice.sample(secrets, len(secrets)) for _ in range(RACING)]
        await asyncio.gather(*[go_on_asking(balancer, order) for order in orders])

    assert tally.total() == 20 * RACING
    for number, secret in enumerate(secrets):
        assert tally[secret, 200] == 30 + number
    assert len(host.seen) == sum(30 + number for number in range(20))


async def test_forty_names_of_one_key_at_forty_addresses_delay_another_key_by_one_request() -> None:
    served = []
    let_go = asyncio.Event()

    async def note(visit: Visit, message: Message) -> bytes | None:
        served.append("bob" if b"name is bob" in message.body else "alice")
        await let_go.wait()
        return await complete(visit, message)

    def as_client(key: str, name: str, address: str) -> bytes:
        messages = [{"role": "system", "content": f"name is {name}"}]
        body = json.dumps({"model": "m", "messages": messages}).encode()
        forwarded = f"x-forwarded-for: {address}".encode()
        return post(body, b"/v1/chat/completions", bearer(key), forwarded)

    async def waiting(number: int) -> bool:
        response = await balancer.ask(get(b"/llmhealth-snapshot", bearer(ADMIN)))
        told: int = json.loads(response.body)["queue"]["waiting"]
        return told == number

    host = ModelHost(note)
    keys = json.dumps({"alice": ALICE, "bob": SCRIPTS})
    async with (
        host.running(),
        balancing(
            {"A": host.limited(1)},
            ready=False,
            api_keys=keys,
            admin_key=ADMIN,
            username_pattern=r"name is (\w+)",
        ) as balancer,
    ):
        asked = []
        for number in range(41):
            request = as_client(ALICE, f"name{number}", f"10.0.0.{number}")
            asked.append(asyncio.ensure_future(balancer.ask(request)))
        await balancer.until(lambda: waiting(40))
        asked.append(asyncio.ensure_future(balancer.ask(as_client(SCRIPTS, "bob", "10.0.0.1"))))
        await balancer.until(lambda: waiting(41))
        let_go.set()
        responses = await asyncio.gather(*asked)

    assert {response.status for response in responses} == {200}
    assert served.index("bob") <= 2  # one was at work, one had come before
