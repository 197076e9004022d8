"""A fleet that changes, in containers: machines that crash, hang, are cut off, and come back."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.bundle.stack import Stack, lacking, run, running

LACKING = lacking()
pytestmark = [
    pytest.mark.skipif(bool(LACKING), reason=LACKING),
    pytest.mark.timeout(300),
]
PATIENCE = 60.0
SILENCE = 15.0
LATE = 1.5
"""Seconds by which this machine may be late to notice."""

MACHINES = ("pc1", "pc2", "pc3")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running((), ("tests/bundle/compose.fleet.yaml",)) as (stack, _):
        yield stack


def statuses(stack: Stack) -> dict[str, str]:
    told = httpx.get(f"{stack.url('balancer')}/llmhealth-snapshot").json()
    return {backend["name"]: backend["status"] for backend in told["backends"]}


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def ask(stack: Stack, model: str, timeout: float = 1.0) -> httpx.Response:
    body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
    url = f"{stack.url('balancer')}/v1/chat/completions"
    return httpx.post(url, json=body, timeout=timeout)


@contextmanager
def asking(stack: Stack) -> Iterator[dict[str, float]]:
    """Ask each machine again and again; gives when one has responded last."""
    stop = threading.Event()
    last: dict[str, float] = {}

    def go_on(machine: str) -> None:
        while not stop.wait(0.05):
            try:
                if ask(stack, f"of-{machine}").status_code == 200:
                    last[machine] = time.monotonic()
            except httpx.TimeoutException:
                continue  # it waits for a machine to come back

    threads = [threading.Thread(target=go_on, args=(machine,)) for machine in MACHINES]
    for thread in threads:
        thread.start()
    try:
        yield last
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_each_container_of_a_service_is_a_server(stack: Stack) -> None:
    def of_dns() -> int:
        return sum(name.startswith("llama@") for name in statuses(stack))

    until(lambda: of_dns() == 1)
    stack.compose("up", "--detach", "--no-recreate", "--scale", "llama=3", "llama")
    until(lambda: of_dns() == 3)
    assert ask(stack, "by-dns", timeout=10.0).headers["x-balancer-server"].startswith("llama@")
    stack.compose("up", "--detach", "--no-recreate", "--scale", "llama=1", "llama")
    until(lambda: of_dns() == 1)


def test_a_machine_whose_agent_is_gone_gets_nothing_after_15_s_until_it_is_back(
    stack: Stack,
) -> None:
    network = f"{stack.variables['COMPOSE_PROJECT_NAME']}_default"
    cut_off = stack.inspect("agent3")["Id"]

    def all_are(wanted: set[str]) -> bool:
        now = statuses(stack)
        return {now.get(machine) in wanted for machine in MACHINES} == {True}

    until(lambda: all_are({"idle", "busy"}))
    with asking(stack) as last:
        until(lambda: len(last) == len(MACHINES))
        stack.compose("kill", "agent1")
        stack.compose("pause", "agent2")
        run("network", "disconnect", network, cut_off)
        gone = time.monotonic()
        until(lambda: all_are({"draining"}))
        until(lambda: time.monotonic() - max(last.values()) > 1.0)
        assert max(last.values()) - gone <= SILENCE + LATE

        stack.compose("start", "agent1")
        stack.compose("unpause", "agent2")
        run("network", "connect", network, cut_off)
        back = time.monotonic()
        until(lambda: min(last[machine] for machine in MACHINES) > back)


def test_a_machine_leaves_when_its_agent_is_stopped(stack: Stack) -> None:
    until(lambda: "pc1" in statuses(stack))
    stack.compose("stop", "agent1")
    assert "pc1" not in statuses(stack)
