"""Settings are changed while the balancer serves, and nobody notices but by what changed."""

import asyncio
import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.model_host import STREAM_END, ModelHost, complete, event
from tests.fakes.process import Running, balancing
from tests.fakes.sockets import SSE, Message, Visit, bearer, chat, post, until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP"),
]

PATH = b"/v1/chat/completions"

COMMAND = [sys.executable, "-m", "app", "reload"]


def write(folder: Path, servers: Mapping[str, ModelHost | Mapping[str, object]]) -> None:
    """Write which servers there are, each for every model."""
    written = {
        name: {"addr": f"http://127.0.0.1:{one.port}"} if isinstance(one, ModelHost) else one
        for name, one in servers.items()
    }
    (folder / "BALANCER_SERVERS").write_text(json.dumps(written))
    (folder / "BALANCER_MODELS").write_text(json.dumps({".*": list(servers)}))


async def reload(balancer: Running) -> list[dict[str, Any]]:
    """Have the settings read again, and return the lines that tell what came of all reloads."""

    def told() -> list[dict[str, Any]]:
        lines = balancer.log()
        return [line for line in lines if str(line["event"]).startswith("settings.")]

    before = len(told())
    balancer.process.send_signal(signal.SIGHUP)
    await balancer.until(lambda: len(told()) > before)
    return told()


async def server_of(balancer: Running, request: bytes = chat()) -> str:
    """Ask, and return which server responds."""
    response = await balancer.ask(request)
    assert response.status == 200, response.body
    return response["x-balancer-server"]


async def test_a_server_that_is_added_gets_requests_and_one_that_is_removed_none(
    tmp_path: Path,
) -> None:
    first, second = ModelHost(), ModelHost()
    async with (
        first.running(),
        second.running(),
        balancing({"A": first}, folder=tmp_path) as balancer,
    ):
        assert await server_of(balancer) == "A"
        write(tmp_path, {"B": second})
        (*_, told) = await reload(balancer)
        assert await server_of(balancer) == "B"

    assert told["changed"] == [
        "BALANCER_SERVERS: B is new, A is gone",
        "BALANCER_MODELS: .* has changed",
    ]


async def test_files_that_change_are_read_without_being_asked(tmp_path: Path) -> None:
    first, second = ModelHost(), ModelHost()
    async with (
        first.running(),
        second.running(),
        balancing({"A": first}, folder=tmp_path) as balancer,
    ):
        write(tmp_path, {"B": second})
        await balancer.until(lambda: balancer.events("settings.taken_in"))
        assert await server_of(balancer) == "B"


def held(go: asyncio.Event) -> ModelHost:
    """Make a server whose streams begin at once and end with an event."""

    async def hold(visit: Visit, message: Message) -> bytes | None:
        await visit.say(SSE + event())
        await go.wait()
        return event() + STREAM_END

    return ModelHost(hold)


async def read(client: Visit) -> bytes:
    """Read a stream to its end."""
    body = b""
    while piece := await client.chunk():
        body += piece
    return body


async def test_a_stream_ends_as_it_would_have_at_a_server_that_is_removed(tmp_path: Path) -> None:
    go = asyncio.Event()
    first, second = held(go), ModelHost()
    async with (
        first.running(),
        second.running(),
        balancing({"A": first}, folder=tmp_path) as balancer,
        balancer.client() as client,
    ):
        await client.say(chat(stream=True))
        await client.head()
        write(tmp_path, {"B": second})
        await reload(balancer)
        assert await server_of(balancer) == "B"
        go.set()
        assert (await read(client)).endswith(b"data: [DONE]\n\n")

    assert len(first.seen) == 1


async def test_what_is_in_flight_at_a_server_counts_when_it_is_removed_and_added_back(
    tmp_path: Path,
) -> None:
    go = asyncio.Event()
    first, second = held(go), ModelHost()
    async with (
        first.running(),
        second.running(),
        balancing({"A": first.limited(1), "B": second}, folder=tmp_path) as balancer,
        balancer.client() as client,
    ):
        await client.say(chat(stream=True))
        await client.head()
        write(tmp_path, {"B": second})
        await reload(balancer)
        write(tmp_path, {"A": first.limited(1), "B": second})
        await reload(balancer)
        await balancer.until(lambda: balancer.backends("models"))
        assert await server_of(balancer) == "B"
        assert await balancer.in_flight() == 1
        go.set()
        await read(client)
        assert await balancer.in_flight() == 0
        assert await server_of(balancer) == "A"

    assert first.peak == 1


async def test_a_lower_limit_holds_for_the_next_request(tmp_path: Path) -> None:
    go = asyncio.Event()
    first = held(go)
    async with (
        first.running(),
        balancing({"A": first.limited(2)}, folder=tmp_path, queue_max=0) as balancer,
        balancer.client() as client,
    ):
        await client.say(chat(stream=True))
        await client.head()
        write(tmp_path, {"A": first.limited(1)})
        await reload(balancer)
        refused = await balancer.ask(chat())
        go.set()
        await read(client)

    assert refused.status == 429
    assert first.peak == 1


async def test_a_mistake_is_refused_as_a_whole_and_told(tmp_path: Path) -> None:
    first = ModelHost()
    async with first.running(), balancing({"A": first}, folder=tmp_path) as balancer:
        good = (tmp_path / "BALANCER_SERVERS").read_text()
        write(tmp_path, {"B": {"addr": "192.168.1.20"}})
        (tmp_path / "BALANCER_QUEUE_MAX").write_text("many")
        (*_, told) = await reload(balancer)
        assert await server_of(balancer) == "A"
        name = "config_last_reload_successful"
        assert list((await balancer.metrics(name)).values()) == [0.0]
        mistakes = (await balancer.snapshot())["refused_settings"]

        (tmp_path / "BALANCER_QUEUE_MAX").write_text("7")
        (tmp_path / "BALANCER_SERVERS").write_text(good)
        (tmp_path / "BALANCER_MODELS").write_text('{".*": ["A"]}')
        await reload(balancer)
        assert list((await balancer.metrics(name)).values()) == [1.0]
        snapshot = await balancer.snapshot()

    assert told["event"] == "settings.refused"
    assert told["mistakes"] == mistakes
    assert any(line.startswith("BALANCER_QUEUE_MAX: must be a whole number") for line in mistakes)
    assert any("must begin with http:// or https://" in line for line in mistakes)
    assert snapshot["refused_settings"] == []
    assert snapshot["queue"]["max"] == 7


async def test_what_cannot_change_while_it_runs_is_named(tmp_path: Path) -> None:
    first = ModelHost()
    async with first.running(), balancing({"A": first}, folder=tmp_path) as balancer:
        (tmp_path / "BALANCER_HOST").write_text("::1")
        (*_, told) = await reload(balancer)

    assert told["needs_restart"] == ["BALANCER_HOST"]
    assert told["changed"] == []


async def test_a_client_stays_where_its_prompt_is(tmp_path: Path) -> None:
    first, second = ModelHost(), ModelHost()
    async with (
        first.running(),
        second.running(),
        balancing({"A": first, "B": second}, folder=tmp_path) as balancer,
    ):
        known = "Tell me more of what you said. " * 200
        where = await server_of(balancer, chat(messages=[{"role": "user", "content": known}]))
        write(tmp_path, {"B": second, "A": first})
        await reload(balancer)
        more = [
            {"role": "user", "content": known},
            {"role": "assistant", "content": "No."},
            {"role": "user", "content": "Why?"},
        ]
        response = await balancer.ask(chat(messages=more))

    assert response["x-balancer-server"] == where
    assert response["x-balancer-reason"] in ("cached_prompt", "remembered_prompt")


async def test_keys_that_are_set_are_asked_for_from_then_on(tmp_path: Path) -> None:
    first = ModelHost()
    async with first.running(), balancing({"A": first}, folder=tmp_path) as balancer:
        assert (await balancer.ask(chat())).status == 200
        (tmp_path / "BALANCER_API_KEYS").write_text('{"alice": "sk-alice-0123456789"}')
        (*_, told) = await reload(balancer)
        without = await balancer.ask(chat())
        shown = post(b'{"model":"m"}', PATH, bearer("sk-alice-0123456789"))
        with_key = await balancer.ask(shown)

    assert (without.status, with_key.status) == (401, 200)
    assert told["changed"] == ["BALANCER_API_KEYS"]
    assert "sk-alice" not in json.dumps(told)


async def command(tmp_path: Path, *, expected: int) -> str:
    """Run `llama-balancer reload`, and return what it says."""
    pipe = asyncio.subprocess.PIPE
    environment = {"PATH": "", "TMPDIR": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(
        *COMMAND, env=environment, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == expected, said
    return said.decode()


async def test_the_command_reloads_and_tells_what_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "tmp"
    own.mkdir()
    monkeypatch.setenv("TMPDIR", str(own))
    first = ModelHost()
    assert "no balancer" in await command(own, expected=2)
    async with first.running(), balancing({"A": first}, folder=tmp_path) as balancer:
        address = f"http://127.0.0.1:{balancer.port}"
        assert await command(own, expected=0) == f"{address}: nothing has changed\n"

        (tmp_path / "BALANCER_QUEUE_MAX").write_text("7")
        said = await command(own, expected=0)
        assert said == f"{address}: taken in\nBALANCER_QUEUE_MAX\n"

        (tmp_path / "BALANCER_QUEUE_MAX").write_text("many")
        said = await command(own, expected=2)
        assert said.startswith("BALANCER_QUEUE_MAX: must be a whole number")

    assert "no balancer" in await command(own, expected=2)


async def test_a_request_that_waits_goes_to_a_server_that_is_added(tmp_path: Path) -> None:
    go = asyncio.Event()
    first, second = held(go), ModelHost()
    async with (
        first.running(),
        second.running(),
        balancing({"A": first.limited(1)}, folder=tmp_path) as balancer,
        balancer.client() as client,
    ):
        await client.say(chat(stream=True))
        await client.head()
        waiting = asyncio.create_task(server_of(balancer))
        await balancer.until(lambda: waits(balancer))
        write(tmp_path, {"A": first.limited(1), "B": second})
        await reload(balancer)
        assert await waiting == "B"
        go.set()
        await read(client)


async def waits(balancer: Running) -> bool:
    return bool((await balancer.snapshot())["queue"]["waiting"])


@pytest.mark.timeout(120)
async def test_a_hundred_reloads_cut_no_stream_and_fail_no_request(tmp_path: Path) -> None:
    """Half of them hold a mistake, a quarter removes a server, and a quarter adds it back."""
    go = asyncio.Event()
    hosts = {"A": held(go), "B": held(go)}

    async def complete_or_hold(visit: Visit, message: Message) -> bytes | None:
        if json.loads(message.body).get("stream"):
            return await hold(visit, message)
        return await complete(visit, message)

    hold = hosts["A"].handle
    limits = {"A": 230, "B": 40}
    for host in hosts.values():
        host.handle = complete_or_hold
    ended: list[bytes] = []
    statuses: list[int] = []
    told: list[int] = []
    stop = asyncio.Event()

    async def stream(balancer: Running) -> None:
        async with balancer.client() as client:
            await client.say(chat(stream=True))
            await client.head()
            started.append(1)
            ended.append(await read(client))

    async def ask(balancer: Running) -> None:
        async with balancer.client() as client:
            while not stop.is_set() or len(statuses) < 2000:
                await client.say(chat())
                statuses.append((await client.message()).status)

    started: list[int] = []
    async with hosts["A"].running(), hosts["B"].running():
        both = {name: host.limited(limits[name]) for name, host in hosts.items()}
        async with balancing(both, folder=tmp_path, admin_key="opensesame") as balancer:
            order = post(b"", b"/llmhealth-reload", bearer("opensesame"))
            streams = [asyncio.create_task(stream(balancer)) for _ in range(200)]
            await until(lambda: len(started) == 200)
            asking = [asyncio.create_task(ask(balancer)) for _ in range(20)]
            for number in range(100):
                match number % 4:
                    case 0:
                        write(tmp_path, {"A": both["A"]})
                    case 2:
                        write(tmp_path, both)
                    case _:
                        (tmp_path / "BALANCER_SERVERS").write_text("{")
                told.append((await balancer.ask(order)).status)
            stop.set()
            await asyncio.gather(*asking)
            go.set()
            await asyncio.gather(*streams)
            assert await balancer.in_flight() == 0

    assert told == [200, 422] * 50
    assert all(body.endswith(b"data: [DONE]\n\n") for body in ended)
    assert len(ended) == 200
    assert len(statuses) >= 2000
    assert set(statuses) == {200}
    assert hosts["A"].peak <= limits["A"]
    assert hosts["B"].peak <= limits["B"]
