"""The container alone, by the README's commands, on a real engine."""

import json
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.bundle.stack import ROOT, lacking, run
from tests.fakes.ports import free_port

LACKING = lacking()
pytestmark = [
    pytest.mark.skipif(bool(LACKING), reason=LACKING),
    pytest.mark.timeout(300),
]
README = (ROOT / "README.md").read_text("utf-8")
MINUTE = 60.0


@pytest.fixture
def started(tmp_path: Path) -> Iterator[str]:
    """Run what the README says in another folder, under another name, and on another port."""
    [block] = re.findall(r"```sh\n(docker build.*?)```", README, re.DOTALL)
    build, start = (shlex.split(line) for line in block.splitlines())
    name, port = f"llama-balancer-readme-{free_port()}", free_port()
    tmp_path.chmod(0o755)  # the balancer is another user
    servers = {"PC1": {"addr": "http://host.docker.internal", "model_port": free_port()}}
    (tmp_path / ".env").write_text(f"BALANCER_SERVERS='{json.dumps(servers)}'\n")
    there = {".:/config:ro": f"{tmp_path}:/config:ro", "127.0.0.1:18000:18000": f"{port}:18000"}
    built = run(*build[1:])
    assert built.returncode == 0, built.stderr
    words = [there.get(word, word) for word in start[2:]]
    began = run("run", "--detach", "--name", name, *words)
    try:
        assert began.returncode == 0, began.stderr
        yield f"http://127.0.0.1:{port}"
    finally:
        run("rm", "--force", name)


def test_the_readmes_container_reads_the_file_beside_it(started: str) -> None:
    deadline = time.monotonic() + MINUTE
    while True:
        try:
            snapshot = httpx.get(f"{started}/llmhealth-snapshot").json()
            break
        except httpx.HTTPError:
            assert time.monotonic() < deadline
            time.sleep(0.2)

    assert list(snapshot["servers"]) == ["PC1"]
