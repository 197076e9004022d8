"""The alerts: each has a case that fires, one that does not, and a line for who is woken."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.bundle.emitted import emitted_edges

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "docker" / "prometheus"
RULES = (PROMETHEUS / "rules.yml").read_text("utf-8")
CASES = (ROOT / "tests" / "bundle" / "alerts.yml").read_text("utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")
ALERTS = re.findall(r"alert: (\w+)", RULES)

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def test_there_are_twelve() -> None:
    assert len(set(ALERTS)) == len(ALERTS) == 12


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_tried_both_ways(alert: str) -> None:
    fires, silent = CASES.split("what is well stays silent")

    assert f"alertname: {alert}\n" in fires
    assert f"{{alertname: {alert}, " in silent


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_line_in_the_documents(alert: str) -> None:
    assert f"| `{alert}` |" in OPERATIONS


async def test_every_limit_of_a_time_is_an_edge_between_buckets() -> None:
    limits = re.findall(r"rate\((\w+_bucket)\[\w+\]\)\)\) > ([\d.]+)", RULES)
    edges = await emitted_edges()

    assert len(limits) == 3
    for name, limit in limits:
        assert float(limit) in edges[name]


@promtool
@pytest.mark.parametrize(
    "command",
    [
        ["check", "rules", "--lint=all", "--lint-fatal", str(PROMETHEUS / "rules.yml")],
        ["check", "config", "prometheus.yml"],
        ["test", "rules", str(ROOT / "tests" / "bundle" / "alerts.yml")],
    ],
    ids=["rules", "configuration", "cases"],
)
def test_promtool_agrees(command: list[str], tmp_path: Path) -> None:
    here = shutil.copytree(PROMETHEUS, tmp_path / "prometheus")
    (here / "key").touch()  # compose writes it, and promtool looks for it
    file = here / "prometheus.yml"
    file.write_text(re.sub(r"(credentials_file: )[^}]+", r"\1key", file.read_text("utf-8")))

    result = subprocess.run(
        ["promtool", *command], cwd=here, capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stdout + result.stderr
