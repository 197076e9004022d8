"""The bundle on a real engine: it comes up, every panel shows something, nobody is cut off."""

import asyncio
import json
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.bundle.stack import Stack, lacking, running
from tests.bundle.test_dashboards import BOARDS, panels

LACKING = lacking()
pytestmark = [
    pytest.mark.skipif(bool(LACKING), reason=LACKING),
    pytest.mark.timeout(300),
]
MINUTE = 60.0
STREAMS = 50


@pytest.fixture(scope="module")
def started() -> Iterator[tuple[Stack, float]]:
    with running() as (stack, seconds):
        yield stack, seconds


@pytest.fixture(scope="module")
def stack(started: tuple[Stack, float]) -> Stack:
    return started[0]


def test_it_is_up_within_ninety_seconds_of_nothing(started: tuple[Stack, float]) -> None:
    assert started[1] < 90


def test_the_balancer_is_compiled(stack: Stack) -> None:
    code = "import app.routing.balancer as m; print(m.__file__)"
    found = stack.compose("exec", "-T", "balancer", "python", "-c", code)

    assert found.stdout.strip().endswith(".so"), found


@pytest.mark.parametrize("service", ["balancer", "demo", "pc1", "prometheus"])
def test_a_container_has_no_more_rights_than_it_needs(stack: Stack, service: str) -> None:
    found = stack.inspect(service)

    assert found["Config"]["User"] not in ("", "0", "root")
    assert found["HostConfig"]["ReadonlyRootfs"]
    assert found["HostConfig"]["CapDrop"] == ["ALL"]
    assert found["HostConfig"]["SecurityOpt"] == ["no-new-privileges:true"]
    assert found["HostConfig"]["PidsLimit"] == 500
    assert found["HostConfig"]["Memory"] == 4 * 1024**3
    assert found["HostConfig"]["LogConfig"]["Config"] == {"max-file": "3", "max-size": "10m"}


def test_ports_are_open_to_this_machine_alone(stack: Stack) -> None:
    for service in ("balancer", "demo", "prometheus"):
        for bindings in stack.inspect(service)["NetworkSettings"]["Ports"].values():
            assert {binding["HostIp"] for binding in bindings or ()} <= {"127.0.0.1"}


def test_prometheus_finds_the_balancers_and_every_machines_agent(stack: Stack) -> None:
    deadline = time.monotonic() + MINUTE
    wanted = {"balancer", "demo", "PC1", "demo-PC1", "demo-PC2", "127.0.0.1:9090"}
    while {found["metric"]["instance"] for found in stack.query("up == 1")} != wanted:
        assert time.monotonic() < deadline, stack.query("up")
        time.sleep(1)


def test_every_panels_query_is_answered_with_data(stack: Stack) -> None:
    waiting = {
        (board["title"], panel["title"], _outside_of_grafana(target["expr"]))
        for board in BOARDS
        for panel in panels(board)
        for target in panel["targets"]
    }
    deadline = time.monotonic() + MINUTE
    while waiting := {one for one in waiting if not _has_data(stack, one[2])}:
        assert time.monotonic() < deadline, waiting
        time.sleep(1)


def test_prometheus_keeps_its_data_over_a_restart(stack: Stack) -> None:
    before = time.time()
    assert stack.query("up", at=before)
    assert stack.compose("restart", "prometheus").returncode == 0
    deadline = time.monotonic() + MINUTE
    while True:
        try:
            assert stack.query("up", at=before)
            return
        except httpx.HTTPError:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def test_a_changed_env_file_is_taken_in(stack: Stack) -> None:
    new = stack.config / "new"
    new.write_text("BALANCER_QUEUE_MAX=7\n")
    new.rename(stack.config / ".env")  # as many editors do

    said = stack.compose("exec", "-T", "balancer", "python", "-m", "app", "reload")

    assert said.returncode == 0, said
    assert said.stdout in (
        "http://127.0.0.1:18000: taken in\nBALANCER_QUEUE_MAX\n",
        "http://127.0.0.1:18000: nothing has changed\n",  # it was quicker
    )
    snapshot = httpx.get(f"{stack.url('balancer')}/llmhealth-snapshot").json()
    assert snapshot["queue"]["max"] == 7


def test_going_down_cuts_no_stream(stack: Stack) -> None:
    ended = asyncio.run(_streams_while(stack))

    assert ended == [True] * STREAMS


async def _streams_while(stack: Stack) -> list[bool]:
    """Go down in the middle of many streams; tell of each whether it came to its end."""
    begun = asyncio.Semaphore(0)
    body = {
        "model": "qwen3:8b",
        "stream": True,
        "max_tokens": 200,
        "messages": [{"role": "user", "content": "Tell me much."}],
    }

    async def read(client: httpx.AsyncClient) -> bool:
        last = ""
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if not last:
                    begun.release()
                last = line or last
        return last == "data: [DONE]"

    limits = httpx.Limits(max_connections=STREAMS)
    async with httpx.AsyncClient(
        base_url=stack.url("balancer"), timeout=60, limits=limits, trust_env=False
    ) as client:
        reading = [asyncio.create_task(read(client)) for _ in range(STREAMS)]
        for _ in reading:
            await begun.acquire()
        down = await asyncio.to_thread(stack.compose, "down")
        assert down.returncode == 0, down.stderr
        return list(await asyncio.gather(*reading))


def _outside_of_grafana(query: str) -> str:
    query = query.replace("$__rate_interval", "1m")
    for name in ("job", "instance", "model", "server", "gpu"):
        query = query.replace(f"${name}", ".+")
    return query


def _has_data(stack: Stack, query: str) -> bool:
    return any(
        json.loads(x["value"][1].replace("+Inf", "1").replace("NaN", "null")) is not None
        for x in stack.query(query)
    )
