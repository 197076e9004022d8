"""What is measured: the balancer, and the controls beside it, each on one core."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.bench.load import KEY
from tests.fakes.ports import free_port

PATIENCE = 60.0

Servers = dict[str, dict[str, object]]
"""As `BALANCER_SERVERS` has them."""


@dataclass(frozen=True)
class Contender:
    """A proxy, or the control that answers by itself.

    `command` builds its command line from its port, the upstream's and a folder for its files.
    `program` is what must be installed; `BENCH_<PROGRAM>` names it where it is in a virtual
    environment of its own.
    """

    name: str
    command: Callable[[int, int, Path], list[str]]
    program: str = ""
    streams: bool = True

    @property
    def path(self) -> str | None:
        """Where the program is; None where it is not installed."""
        if not self.program:
            return sys.executable
        variable = "BENCH_" + self.program.upper().replace("-", "_")
        return os.environ.get(variable) or shutil.which(self.program)


@dataclass
class Running:
    """A contender that runs."""

    name: str
    port: int
    pid: int


def _ours(port: int, upstream: int, folder: Path) -> list[str]:
    return [sys.executable, "-m", "app"]


def _uvicorn(port: int, upstream: int, folder: Path) -> list[str]:
    return [sys.executable, "-m", "tests.bench.bare", str(port)]


def _nginx(port: int, upstream: int, folder: Path) -> list[str]:
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"""
        daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
        events {{ worker_connections 8192; }}
        http {{
            access_log off; {paths}
            keepalive_requests 1000000000;
            upstream u {{
                server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000;
            }}
            server {{
                listen 127.0.0.1:{port} backlog=4096;
                location / {{
                    proxy_pass http://u; proxy_http_version 1.1; proxy_buffering off;
                    proxy_set_header Connection ""; proxy_read_timeout 300s;
                }}
            }}
        }}
        """
    )
    return ["nginx", "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"]


def _haproxy(port: int, upstream: int, folder: Path) -> list[str]:
    (folder / "haproxy.cfg").write_text(
        f"""
global
    nbthread 1
    maxconn 8000
defaults
    mode http
    timeout connect 5s
    timeout client 1200s
    timeout server 1200s
    option http-keep-alive
    option http-no-delay
    http-reuse always
frontend f
    bind 127.0.0.1:{port}
    default_backend b
backend b
    server s 127.0.0.1:{upstream}
"""
    )
    return ["haproxy", "-f", f"{folder}/haproxy.cfg", "-db"]


def _rust(*program: str) -> Callable[[int, int, Path], list[str]]:
    def command(port: int, upstream: int, folder: Path) -> list[str]:
        return [
            *program,
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--worker-urls", f"http://127.0.0.1:{upstream}"),
            *("--prometheus-port", str(free_port())),
            *("--policy", "round_robin", "--log-level", "error"),
        ]

    return command


def _litellm(port: int, upstream: int, folder: Path) -> list[str]:
    parameters = {
        "model": "openai/bench",
        "api_base": f"http://127.0.0.1:{upstream}/v1",
        "api_key": "none",
    }
    config = {
        "model_list": [{"model_name": "bench", "litellm_params": parameters}],
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
    }
    (folder / "litellm.yaml").write_text(json.dumps(config))
    options = ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    return ["litellm", "--config", f"{folder}/litellm.yaml", *options]


OURS = Contender("llama-balancer", _ours)
UVICORN = Contender("uvicorn, answering by itself", _uvicorn, streams=False)
NGINX = Contender("nginx", _nginx, "nginx")
VLLM_ROUTER = Contender("vllm-router", _rust("vllm-router"), "vllm-router")
CONTENDERS = (
    OURS,
    UVICORN,
    NGINX,
    Contender("haproxy", _haproxy, "haproxy"),
    VLLM_ROUTER,
    Contender("sglang-router", _rust("sglang-router", "launch"), "sglang-router"),
    Contender("LiteLLM", _litellm, "litellm", streams=False),  # 200 are too many for it
)


@contextlib.contextmanager
def running(
    contender: Contender,
    upstream: int,
    folder: Path,
    core: int,
    servers: Servers | None = None,
    keys: int = 0,
) -> Iterator[Running]:
    """Run a contender on one core until the block ends; `keys` of ours open it, or none does."""
    port = free_port()
    own = Path(tempfile.mkdtemp(dir=folder))
    command = contender.command(port, upstream, own)
    if contender.path is not None:
        command[0] = contender.path
    servers = servers or {"up": {"addr": "http://127.0.0.1", "model_port": upstream}}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("BALANCER_")} | {
        "BALANCER_PORT": str(port),
        "BALANCER_SERVERS": json.dumps(servers),
        "BALANCER_MODELS": json.dumps({"bench.*": list(servers)}),
        "BALANCER_LOG_FORMAT": "json",
    }
    if keys:
        known = {"bench": KEY} | {f"key{n}": f"sk-number-{n:012}" for n in range(1, keys)}
        environment["BALANCER_API_KEYS"] = json.dumps(known)
    with (
        (own / "log").open("wb") as log,
        subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        ) as process,
    ):
        try:
            _await_answer(port, process, own / "log")
            yield Running(contender.name, port, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _await_answer(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    body = {"model": "bench", "messages": [{"role": "user", "content": "hi"}]}
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.post(
                f"http://127.0.0.1:{port}/v1/chat/completions",
                json=body,
                headers={"authorization": f"Bearer {KEY}"},
            )
            if answer.status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"it does not answer:\n{log.read_text()[-2000:]}")
