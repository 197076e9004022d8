"""Several balancers in containers know of each other, and haproxy takes its file."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.bundle.stack import ROOT, Stack, lacking, run, running

FILES = ("compose.yaml", "tests/bundle/compose.stack.yaml", "docker/compose.replicas.yaml")
MINUTE = 60.0
SNAPSHOT = (
    "import urllib.request as u; "
    "print(u.urlopen('http://127.0.0.1:18000/llmhealth-snapshot').read().decode())"
)


def lacks() -> str:
    """Tell what is missing to run them here."""
    if missing := lacking():
        return missing
    return "" if run("image", "inspect", "valkey/valkey:8").returncode == 0 else "no Valkey is here"


LACKING = lacks()


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running(("balancer", "valkey", "pc1"), FILES) as (found, _):
        yield found


@pytest.mark.skipif(bool(LACKING), reason=LACKING)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_each_of_three_knows_of_the_others(stack: Stack, number: int) -> None:
    deadline = time.monotonic() + MINUTE
    while True:
        command = ("exec", "-T", "--index", str(number), "balancer", "python", "-c", SNAPSHOT)
        store = json.loads(stack.compose(*command).stdout)["store"]
        if store == {"replicas": 3, "away": False, "goes_by": "share"}:
            return
        assert time.monotonic() < deadline, store
        time.sleep(0.5)


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
def test_haproxy_takes_its_configuration() -> None:
    file = ROOT / "docker" / "haproxy" / "haproxy.cfg"
    told = subprocess.run(["haproxy", "-c", "-f", file], capture_output=True, check=False)

    assert told.returncode == 0, told.stderr
