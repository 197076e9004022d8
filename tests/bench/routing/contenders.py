"""Who is compared: what spreads requests over several servers, each in its best mode for it."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from tests.bench.contenders import CONTENDERS
from tests.bench.contenders import Contender as Proxy
from tests.bench.routing.play import PATIENCE
from tests.fakes.balancer import eventually
from tests.fakes.ports import free_port
from tests.fakes.valkey import PROGRAM as STORE

OURS = "llama-balancer"
REPLICAS = "replicas"
"""Three of ours with a store, which get requests in turn."""

PROGRAMS: dict[str, Proxy] = {one.name: one for one in CONTENDERS}
NAMES = {
    OURS: "llama-balancer",
    REPLICAS: "3 × llama-balancer, in turn",
    "nginx": "nginx, round robin",
    "haproxy": "haproxy, least connections, queue",
    "vllm-router": "vllm-router, cache-aware",
    "sglang-router": "sglang-router, cache-aware",
}


def installed(name: str) -> bool:
    """Whether a contender can run here."""
    if name == REPLICAS:
        return PROGRAMS["haproxy"].path is not None and STORE is not None
    return PROGRAMS[name].path is not None


@contextlib.contextmanager
def running(
    name: str, model: str, upstreams: Sequence[int], slots: int, folder: Path
) -> Iterator[str]:
    """Run a contender in front of servers on these ports; gives its address."""
    own = folder / name
    own.mkdir(parents=True)
    if name != REPLICAS:
        port = free_port()
        command = _command(name, port, upstreams, slots, own)
        command[0] = PROGRAMS[name].path or command[0]
        with _serving(command, port, _environment(port, model, upstreams, slots), own) as url:
            yield url
        return
    with contextlib.ExitStack() as stack:
        ports = [free_port() for _ in range(3)]
        store = free_port()
        words = [STORE or "", "--port", str(store), "--save", "", "--dir", str(own)]
        stack.enter_context(_process(words, dict(os.environ), own / "store.log"))
        settings = {"BALANCER_VALKEY_URL": f"redis://127.0.0.1:{store}/0"}
        for port in ports:
            environment = _environment(port, model, upstreams, slots) | settings
            command = _command(OURS, port, upstreams, slots, own)
            stack.enter_context(_serving(command, port, environment, own))
        front = free_port()
        command = _command("haproxy", front, ports, 10_000, own)
        file = own / "haproxy.cfg"
        file.write_text(file.read_text().replace("balance leastconn", "balance roundrobin"))
        command[0] = PROGRAMS["haproxy"].path or command[0]
        yield stack.enter_context(_serving(command, front, dict(os.environ), own))


@contextlib.contextmanager
def _serving(
    command: Sequence[str], port: int, environment: dict[str, str], folder: Path
) -> Iterator[str]:
    """Run what serves at a port, once it has models to list; gives its address."""
    url = f"http://127.0.0.1:{port}"
    with _process(command, environment, folder / f"{port}.log") as process:
        eventually(lambda: process.poll() is None and _lists_models(url))
        yield url


@contextlib.contextmanager
def _process(
    command: Sequence[str], environment: dict[str, str], file: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends."""
    with (
        file.open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _lists_models(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError, ValueError):
        answer = httpx.get(f"{url}/v1/models")
        return answer.status_code == 200 and bool(answer.json()["data"])
    return False


def _environment(port: int, model: str, upstreams: Sequence[int], slots: int) -> dict[str, str]:
    servers = {
        f"PC{number}": {"addr": f"http://127.0.0.1:{upstream}", "request_max": slots}
        for number, upstream in enumerate(upstreams, 1)
    }
    return {k: v for k, v in os.environ.items() if not k.startswith("BALANCER_")} | {
        "BALANCER_PORT": str(port),
        "BALANCER_SERVERS": json.dumps(servers),
        "BALANCER_MODELS": json.dumps({model: list(servers)}),
        "BALANCER_QUEUE_TIMEOUT": str(PATIENCE),
        "BALANCER_PROBE_INTERVAL": "0.2",
        "BALANCER_LOG_LEVEL": "warning",
    }


def _command(name: str, port: int, upstreams: Sequence[int], slots: int, folder: Path) -> list[str]:
    urls = [f"http://127.0.0.1:{upstream}" for upstream in upstreams]
    match name:
        case "nginx":
            servers = " ".join(f"server 127.0.0.1:{upstream};" for upstream in upstreams)
            command = PROGRAMS[name].command(port, upstreams[0], folder)
            file = folder / "nginx.conf"
            text = file.read_text().replace(f"server 127.0.0.1:{upstreams[0]};", servers)
            file.write_text(text)
            return command
        case "haproxy":
            command = PROGRAMS[name].command(port, upstreams[0], folder)
            file = folder / "haproxy.cfg"
            servers = "\n".join(
                f"    server s{upstream} 127.0.0.1:{upstream} maxconn {slots}"
                for upstream in upstreams
            )
            text = file.read_text().replace(f"    server s 127.0.0.1:{upstreams[0]}", servers)
            balance = f"backend b\n    balance leastconn\n    timeout queue {PATIENCE:g}s"
            file.write_text(text.replace("backend b", balance))
            return command
        case "vllm-router" | "sglang-router":
            launch = ["launch"] if name == "sglang-router" else []
            ports = ["--host", "127.0.0.1", "--port", str(port)]
            metrics = ["--prometheus-port", str(free_port())]
            policy = ["--policy", "cache_aware", "--log-level", "error"]
            return [name, *launch, *ports, *metrics, *policy, "--worker-urls", *urls]
        case _:
            return [sys.executable, "-m", "app"]
