"""The alerts: each has a case that fires, one that does not, and a line for who is woken."""

import json
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


def test_there_are_seventeen() -> None:
    assert len(set(ALERTS)) == len(ALERTS) == 17


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_what_it_means_and_where_to_read_on(alert: str) -> None:
    [text] = re.findall(rf"alert: {alert}\n(.*?)(?:\n\n|\Z)", RULES, re.DOTALL)

    for name in ("summary", "description", "runbook_url"):
        assert f"\n          {name}: " in text
    [page] = re.findall(r"runbook_url: ([^#]+)#when-an-alert-fires", text)
    assert "## When an alert fires" in (ROOT / page).read_text("utf-8")


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_tried_both_ways(alert: str) -> None:
    fires, silent = CASES.split("what is well stays silent")

    assert f"alertname: {alert}\n" in fires
    assert f"{{alertname: {alert}, " in silent


def test_every_alert_has_a_cause() -> None:
    assert set(CAUSES) == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_line_in_the_documents(alert: str) -> None:
    assert f"| `{alert}` |" in OPERATIONS


async def test_every_limit_of_a_time_is_an_edge_between_buckets() -> None:
    limits = re.findall(r"rate\((\w+_bucket)(?:\{[^}]*\})?\[\w+\]\)\)\) > ([\d.]+)", RULES)
    edges = await emitted_edges()

    assert len(limits) == 5
    for name, limit in limits:
        assert float(limit) in edges[name]


BEFORE, DURING, AFTER = 60, 60, 42
"""How long all is well, is not, and is again: in scrapes of ten seconds."""


def gauge(bad: float, good: float) -> str:
    return f"{good}x{BEFORE - 1} {bad}x{DURING - 1} {good}x{AFTER - 1}"


def counter(bad: float, good: float = 0) -> str:
    """Write what grows by so much at each scrape."""
    values, total = [], 0.0
    for step, scrapes in ((good, BEFORE), (bad, DURING), (good, AFTER)):
        for _ in range(scrapes):
            total += step
            values.append(f"{total:g}")
    return " ".join(values)


def times(name: str, labels: str, slow: str) -> dict[str, str]:
    """Write a histogram of times that are short, then of an edge above `slow`, then short."""
    many, edges = counter(2, 2), {slow: counter(0, 2), "+Inf": counter(2, 2)}
    found = {f'{name}_bucket{{{labels},le="{edge}"}}': text for edge, text in edges.items()}
    above = {"10.0": "30.0", "30.0": "60.0", "0.25": "0.5"}[slow]
    return {
        **found,
        f'{name}_bucket{{{labels},le="{above}"}}': many,
        f"{name}_count{{{labels}}}": many,
    }


HERE = 'job="llama-balancer",instance="b"'
BALANCER = "llama_balancer_"
CAUSES: dict[str, dict[str, str]] = {
    "Down": {f"up{{{HERE}}}": gauge(0, 1)},
    "ModelUnserved": {f'{BALANCER}model_servers_available{{{HERE},model="m"}}': gauge(0, 1)},
    "ErrorRatioHigh": {
        f'{BALANCER}requests_total{{{HERE},outcome="success"}}': counter(1, 2),
        f'{BALANCER}requests_total{{{HERE},outcome="timeout"}}': counter(1),
    },
    "RetriesHigh": {
        f'{BALANCER}requests_total{{{HERE},outcome="success"}}': counter(2, 2),
        f'{BALANCER}retries_total{{{HERE},server="A",reason="connect"}}': counter(1),
    },
    "ServerDown": {f'{BALANCER}server_up{{{HERE},server="A"}}': gauge(0, 1)},
    "ServerEjected": {f'{BALANCER}server_state{{{HERE},server="A",state="ejected"}}': gauge(1, 0)},
    "AgentDown": {'up{job="llama-balancer-agents",instance="a",machine="A"}': gauge(0, 1)},
    "StoreAway": {f"{BALANCER}store_up{{{HERE}}}": gauge(0, 1)},
    "TimeToFirstTokenHigh": times(
        f"{BALANCER}time_to_first_token_seconds", f'{HERE},model="m"', "30.0"
    ),
    "QueueWaitHigh": times(f"{BALANCER}queue_wait_seconds", f'{HERE},model="m"', "10.0"),
    "EventLoopBlocked": times(f"{BALANCER}event_loop_lag_seconds", HERE, "0.25"),
    "GpuCollectorDown": {f"{BALANCER}gpu_collector_up{{{HERE}}}": gauge(0, 1)},
    "GpuHot": {f'{BALANCER}gpu_temperature_celsius{{{HERE},gpu="0"}}': gauge(91, 60)},
    "ConfigReloadFailed": {f"{BALANCER}config_last_reload_successful{{{HERE}}}": gauge(0, 1)},
    "PrometheusCannotWrite": {'prometheus_tsdb_wal_writes_failed_total{job="p"}': counter(1)},
    "UsageMissing": {
        f'{BALANCER}usage_reports_total{{{HERE},server="A",result="missing"}}': counter(4),
        f'{BALANCER}usage_reports_total{{{HERE},server="A",result="present"}}': counter(0, 1),
    },
    "LabelValuesFolded": {f'{BALANCER}label_values_dropped_total{{{HERE},label="m"}}': counter(20)},
}
"""Of each alert: what makes it fire in the series' second third, and in no other."""


def stored_until(stop: int) -> str:
    """Write the time of what was stored last, while it is stored: not in the second third."""
    times = [f"{10 * scrape}" for scrape in range(BEFORE + DURING + AFTER)]
    return " ".join("_" if BEFORE <= scrape < stop else time for scrape, time in enumerate(times))


FULL_DISK = {'prometheus_tsdb_head_max_time_seconds{job="p"}': stored_until(BEFORE + DURING)}


@promtool
@pytest.mark.parametrize(
    ("alert", "series"), [*CAUSES.items(), ("PrometheusCannotWrite", FULL_DISK)]
)
def test_an_alert_fires_within_three_minutes_and_is_over_as_soon_after(
    alert: str, series: dict[str, str], tmp_path: Path
) -> None:
    firing = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
    one = [{"labels": "{}", "value": 1}]
    checks = {"9m50s": [], "13m": one, "19m50s": one, "23m": []}
    case = {
        "rule_files": [str(PROMETHEUS / "rules.yml")],
        "evaluation_interval": "10s",
        "tests": [
            {
                "interval": "10s",
                "input_series": [{"series": k, "values": v} for k, v in series.items()],
                "promql_expr_test": [
                    {"expr": firing, "eval_time": at, "exp_samples": samples}
                    for at, samples in checks.items()
                ],
            }
        ],
    }
    file = tmp_path / "case.yml"
    file.write_text(json.dumps(case))
    told = subprocess.run(["promtool", "test", "rules", file], capture_output=True, check=False)

    assert told.returncode == 0, (told.stdout + told.stderr).decode()


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
