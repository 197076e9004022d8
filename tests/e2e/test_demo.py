import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        number: int = free.getsockname()[1]
    return number


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        yield busy.getsockname()[1]


def command(port: int, *options: str) -> list[str]:
    return [sys.executable, "-m", "app", "demo", "--port", str(port), *options]


def test_the_demo_shows_what_to_try_and_an_answer_that_came_through_the_balancer(
    port: int,
) -> None:
    demo = subprocess.run(
        command(port, "--once"), cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )

    assert (demo.returncode, demo.stderr) == (0, "")
    welcome, answer = demo.stdout.split("What does a load balancer do all day?")
    assert f"http://127.0.0.1:{port}/llmhealth-monitor" in welcome
    assert f"curl -N http://127.0.0.1:{port}/v1/chat/completions" in welcome
    assert f'OpenAI(base_url="http://127.0.0.1:{port}/v1"' in welcome
    assert answer.strip().endswith(".")


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_ctrl_c_ends_the_demo_and_all_it_started(port: int) -> None:
    with subprocess.Popen(
        command(port), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "Ctrl-C" in line:
                break
        demo.send_signal(signal.SIGINT)
        # The pipes end when the last process that holds them has ended.
        out, errors = demo.communicate(timeout=20)

    assert (demo.returncode, out, errors) == (0, "\nStopped.\n", "")
    socket.create_server(("127.0.0.1", port)).close()


def test_the_demo_names_a_port_that_is_taken(taken: int) -> None:
    demo = subprocess.run(
        command(taken, "--once"), cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )

    assert demo.returncode == 1
    assert demo.stderr.startswith(f"The demo failed: port {taken} cannot be used")
    assert demo.stdout == ""
