"""Several balancers in containers know of each other, and haproxy takes its file."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest
import yaml

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
    with running(("balancer", "valkey", "pc1", "prometheus"), FILES) as (found, _):
        yield found


@pytest.mark.skipif(bool(LACKING), reason=LACKING)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_each_of_three_knows_of_the_others(stack: Stack, number: int) -> None:
    deadline = time.monotonic() + MINUTE
    while True:
        command = ("exec", "-T", "--index", str(number), "balancer", "python", "-c", SNAPSHOT)
        store = json.loads(stack.compose(*command).stdout)["store"]
        if (store["replicas"], store["away"]) == (3, False):
            return
        assert time.monotonic() < deadline, store
        time.sleep(0.5)


@pytest.mark.skipif(bool(LACKING), reason=LACKING)
@pytest.mark.timeout(300)
def test_prometheus_sees_each_of_them(stack: Stack) -> None:
    deadline = time.monotonic() + MINUTE
    while len(found := stack.query('llama_balancer_store_replicas{job="llama-balancer"} == 3')) < 3:
        assert time.monotonic() < deadline, found
        time.sleep(1)


def test_prometheus_differs_by_where_it_finds_the_balancers() -> None:
    one, several = (
        yaml.safe_load((ROOT / "docker" / "prometheus" / name).read_text("utf-8"))
        for name in ("prometheus.yml", "replicas.yml")
    )
    for configuration in (one, several):
        for key in ("static_configs", "dns_sd_configs", "relabel_configs"):
            configuration["scrape_configs"][0].pop(key, None)

    assert one == several


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
def test_haproxy_takes_its_configuration() -> None:
    file = ROOT / "docker" / "haproxy" / "haproxy.cfg"
    told = subprocess.run(["haproxy", "-c", "-f", file], capture_output=True, check=False)

    assert told.returncode == 0, told.stderr
