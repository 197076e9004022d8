"""The compose stack on a real engine."""

import functools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.ports import free_port

ROOT = Path(__file__).parents[2]
SERVICES = ("balancer", "demo", "prometheus", "pc1", "pc2", "traffic")
"""All but Grafana, which no test needs to run."""
FILES = ("compose.yaml", "tests/bundle/compose.stack.yaml")


def run(*command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run docker."""
    return subprocess.run(
        ["docker", *command],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def has_compose() -> bool:
    """Whether compose files can be read here."""
    return shutil.which("docker") is not None and run("compose", "version").returncode == 0


@functools.cache
def lacking() -> str:
    """Tell what is missing to run the stack here; nothing where it can run."""
    if not has_compose():
        return "Docker with Compose is not installed"
    if run("info").returncode != 0:
        return "no Docker engine runs"
    images = run("compose", "config", "--images", "prometheus").stdout.split()
    for image in ("python:3.13-slim", *images):
        if run("image", "inspect", image).returncode != 0:
            return f"the image {image} is not here"
    return ""


class Stack:
    """The running stack, under a name and on ports of its own."""

    def __init__(self, config: Path, files: Sequence[str] = FILES) -> None:
        self.files = files
        self.config = config
        """The folder where its `.env` would stand."""
        self.ports = {name: free_port() for name in ("BALANCER", "DEMO", "PROMETHEUS")}
        self.variables = {f"{k}_PUBLISH": f"127.0.0.1:{v}" for k, v in self.ports.items()}
        self.variables |= {
            "COMPOSE_PROJECT_NAME": f"llama-balancer-test-{os.getpid()}-{len(files)}",
            "VERSION": "test",
            "CONFIG": str(config),
            "BALANCER_METRICS_KEY": "metrics-0123456789",
        }

    def compose(self, *command: str) -> "subprocess.CompletedProcess[str]":
        files = [word for name in self.files for word in ("--file", name)]
        return run("compose", *files, "--profile", "demo", *command, **self.variables)

    def url(self, service: str) -> str:
        return f"http://127.0.0.1:{self.ports[service.upper()]}"

    def inspect(self, service: str) -> dict[str, Any]:
        container = self.compose("ps", "--all", "--quiet", service).stdout.strip()
        found: list[dict[str, Any]] = json.loads(run("inspect", container).stdout)
        return found[0]

    def query(self, expression: str, at: float | None = None) -> list[Any]:
        """Ask Prometheus; raises httpx.HTTPError while it does not answer."""
        moment = {} if at is None else {"time": at}
        answer = httpx.get(
            f"{self.url('prometheus')}/api/v1/query", params={"query": expression, **moment}
        )
        answer.raise_for_status()
        result: list[Any] = answer.json()["data"]["result"]
        return result


@contextmanager
def running(
    services: Sequence[str] = SERVICES, files: Sequence[str] = FILES
) -> Iterator[tuple[Stack, float]]:
    """Build and start the stack; gives it, and the seconds until it was healthy."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _running(Path(folder), services, files)


def _running(
    config: Path, services: Sequence[str], files: Sequence[str]
) -> Iterator[tuple[Stack, float]]:
    config.chmod(0o755)  # the balancer is another user
    stack = Stack(config, files)
    begun = time.monotonic()
    try:
        up = stack.compose("up", "--build", "--wait", *services)
        assert up.returncode == 0, up.stderr[-3000:] + stack.compose("logs").stdout[-3000:]
        yield stack, time.monotonic() - begun
    finally:
        stack.compose("down", "--volumes", "--timeout", "1")
