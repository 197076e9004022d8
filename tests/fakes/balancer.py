"""The balancer as users run it: a process of its own, configured by its environment."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from tests.fakes.ports import free_port

PATIENCE = 30.0


class Running:
    """A balancer that runs."""

    def __init__(self, url: str, process: "subprocess.Popen[bytes]") -> None:
        self.url = url
        self.process = process

    def snapshot(self) -> dict[str, Any]:
        told: dict[str, Any] = httpx.get(f"{self.url}/llmhealth-snapshot").json()
        return told

    def in_flight(self) -> int:
        return sum(backend["total_inflight"] for backend in self.snapshot()["backends"])


@contextlib.contextmanager
def balancer(
    servers: Mapping[str, object],
    models: Mapping[str, object],
    *,
    ready: bool = True,
    **settings: object,
) -> Iterator[Running]:
    """Run the balancer until the block ends; it must then stop by itself, without complaint.

    `ready`: wait until each server has listed its models.
    """
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("BALANCER_")}
    environment |= {
        "BALANCER_PORT": str(port),
        "BALANCER_SERVERS": json.dumps(servers),
        "BALANCER_MODELS": json.dumps(models),
        "BALANCER_PROBE_INTERVAL": "0.2",
        "BALANCER_LOG_FORMAT": "json",
        **{f"BALANCER_{name.upper()}": str(value) for name, value in settings.items()},
    }
    url = f"http://127.0.0.1:{port}"
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            [sys.executable, "-m", "app"], env=environment, stdout=log, stderr=log
        ) as process,
    ):
        try:
            _await(lambda: httpx.get(f"{url}/llmhealth").status_code == 200, process)
            running = Running(url, process)
            if ready:
                _await(
                    lambda: all(b["models"] is not None for b in running.snapshot()["backends"]),
                    process,
                )
            yield running
            process.send_signal(signal.SIGTERM)
            status = process.wait(PATIENCE)
        finally:
            process.kill()
            log.seek(0)
            output = log.read().decode()
        assert status == 0, output
        assert "Traceback" not in output, output


def _await(condition: Any, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if condition():
                return
        time.sleep(0.02)
    raise RuntimeError("the balancer did not start")


def eventually(condition: Any) -> None:
    """Wait for another process: fails once patience is at its end."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
