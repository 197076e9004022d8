"""The benchmark's own logic; what it measures is nobody's test."""

import os
import shutil
import sys

import pytest

from tests.bench.__main__ import main
from tests.bench.contenders import NGINX, OURS, VLLM_ROUTER
from tests.bench.process import cpu_seconds, family, resident_bytes
from tests.bench.table import keys_table, table

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")


def test_the_table_shows_figures_and_their_ratio_to_the_control() -> None:
    written = table(
        {
            "json": {OURS.name: 30.0, VLLM_ROUTER.name: 40.0, NGINX.name: 10.0},
            "memory": {OURS.name: 7.0, NGINX.name: 10.0},
        }
    ).splitlines()

    assert written[2] == "| **llama-balancer** | 30.0 (0.75) | 7.0 (0.70) |"
    assert written[3] == "| vllm-router | 40.0 (1.00) | – |"
    assert written[-1] == "| bar | ≤ 0.75 × | ≤ 0.75 × |"


def test_what_keys_cost_is_shown_beside_none() -> None:
    written = keys_table({0: [40.0, 50.0, 60.0], 1000: [51.0, 51.5, 52.0]}).splitlines()

    assert written[2:4] == ["| 0 | 50.0 (1.00) |", "| 1,000 | 51.5 (1.03) |"]


@linux
def test_the_time_of_all_threads_is_counted() -> None:
    before = cpu_seconds(os.getpid())
    while cpu_seconds(os.getpid()) == before:
        pass
    assert family(os.getpid())[0] == os.getpid()
    assert resident_bytes(os.getpid()) > 1_000_000


@linux
@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_a_short_run_gives_a_figure_for_each_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rounds", "1", "--seconds", "0.1", "--contenders", "none"]) == 0

    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if "|" in line]
    ours = next(row for row in rows if OURS.name in row[1])
    assert all(float(cell.split()[0]) for cell in ours[2:6])
