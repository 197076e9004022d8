"""The dashboards: what they ask for is emitted, and Grafana shows it as people expect.

Most rules are those of Grafana's dashboard linter (https://github.com/grafana/dashboard-linter).
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from grafana.generate import DASHBOARDS, path_of, written
from grafana.panels import Dashboard
from tests.bundle.emitted import emitted

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BOARDS = [json.loads(written(dashboard)) for dashboard in DASHBOARDS]
RULES = (ROOT / "docker" / "prometheus" / "rules.yml").read_text("utf-8")
NAME = re.compile(r"\b(llama_balancer_[a-z_]+|process_[a-z_]+)\b")
TIMED = re.compile(r"\b(rate|increase|irate)\(")

UNUSED: set[str] = set()
"""Families that no panel and no rule shows, on purpose.

There are none of reloads (`config_last_reload_…`): settings are read at the start alone, and
a mistake stops it. The alert ConfigReloadFailed watches Prometheus' own files.
"""

boards = pytest.mark.parametrize("board", BOARDS, ids=[board["uid"] for board in BOARDS])


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in board["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def queries(board: dict[str, Any]) -> Iterator[str]:
    for panel in panels(board):
        for target in panel["targets"]:
            yield target["expr"]
    for note in board["annotations"]["list"]:
        yield note["expr"]
    for variable in board["templating"]["list"][1:]:
        yield variable["query"]["query"]


def family(name: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", name)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_the_files_are_what_the_generator_writes(dashboard: Dashboard) -> None:
    assert path_of(dashboard).read_text("utf-8") == written(dashboard), (
        "run python -m grafana.generate"
    )


@boards
async def test_every_metric_that_is_asked_for_is_emitted(board: dict[str, Any]) -> None:
    known = await emitted()

    for query in queries(board):
        assert set(NAME.findall(query)) <= set(known), query


async def test_every_metric_in_a_rule_is_emitted() -> None:
    assert set(NAME.findall(RULES)) <= set(await emitted())


async def test_every_family_that_is_emitted_is_shown_somewhere() -> None:
    shown = {
        family(name) for board in BOARDS for query in queries(board) for name in NAME.findall(query)
    }
    shown |= {family(name) for name in NAME.findall(RULES)}
    ours = {family(name) for name in await emitted() if name.startswith("llama_balancer_")}

    assert ours - shown == UNUSED


@boards
async def test_a_query_groups_by_labels_that_its_metric_has(board: dict[str, Any]) -> None:
    known = await emitted()
    of_targets = {"job", "instance"}

    for query in queries(board):
        labels = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", query))))
        have = frozenset().union(*(known[name] for name in NAME.findall(query)))
        assert labels <= have | of_targets, query


@boards
def test_every_query_keeps_to_the_chosen_job_and_instance(board: dict[str, Any]) -> None:
    for panel in panels(board):
        for target in panel["targets"]:
            for selector in re.findall(r"\{([^}]*)\}", target["expr"]):
                if selector.startswith('service="llama-balancer"'):
                    continue  # an alert: of an agent too, or of Prometheus itself
                assert 'job=~"$job",instance=~"$instance"' in selector


@boards
def test_counters_are_shown_as_rates_over_the_interval_that_grafana_picks(
    board: dict[str, Any],
) -> None:
    for panel in panels(board):
        for target in panel["targets"]:
            query = target["expr"]
            for name in NAME.findall(query):
                if name.endswith(("_total", "_bucket", "_sum", "_count")):
                    assert TIMED.search(query), query
            assert "rate(" not in query or "[$__rate_interval]" in query, query
            assert "irate(" not in query


@boards
def test_every_panel_says_what_it_shows_and_in_which_unit(board: dict[str, Any]) -> None:
    for panel in panels(board):
        assert panel["title"]
        assert panel["description"].endswith((".", "°C."))
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        assert panel["datasource"]["uid"] == "${datasource}"


@boards
def test_what_is_chosen_above_is_there_and_called_so(board: dict[str, Any]) -> None:
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}

    assert [variables[name]["label"] for name in ("datasource", "job", "instance")] == [
        "Data source",
        "Job",
        "Instance",
    ]
    for name, variable in list(variables.items())[1:]:
        # All jobs and instances are ours: a Prometheus may watch much else.
        every = None if name in ("job", "instance") else ".+"
        assert (variable["multi"], variable.get("allValue"), variable["refresh"]) == (
            True,
            every,
            2,
        )
    assert not board["editable"]


@boards
def test_no_panel_covers_another(board: dict[str, Any]) -> None:
    places = [panel["gridPos"] for panel in panels(board)]

    assert all(place["x"] + place["w"] <= 24 for place in places)
    for a, b in combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above


def test_ids_and_titles_are_told_apart() -> None:
    assert len({board["uid"] for board in BOARDS}) == len(BOARDS)
    assert len({board["title"] for board in BOARDS}) == len(BOARDS)
    for board in BOARDS:
        numbers = [panel["id"] for panel in [*board["panels"], *panels(board)]]
        assert len(set(numbers)) == len({id(panel) for panel in [*board["panels"], *panels(board)]})


def test_a_threshold_is_the_number_of_the_alert_that_it_names() -> None:
    named = 0
    for board in BOARDS:
        for panel in panels(board):
            steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
            for alert in re.findall(r"Alert (\w+)", panel["description"]):
                named += 1
                rule = re.search(
                    rf"alert: {alert}\n(.*?)\n      - alert|alert: {alert}\n(.*)", RULES, re.DOTALL
                )
                assert rule is not None, alert
                limit = re.search(r"(>|==) ([\d.]+)\s*$", (rule[1] or rule[2]), re.MULTILINE)
                assert limit is not None, alert
                if panel["type"] == "stat" and limit[1] == ">":
                    assert float(limit[2]) in [step["value"] for step in steps]
    assert named >= 8


def test_the_home_dashboard_answers_in_its_first_row() -> None:
    first = [panel for panel in BOARDS[0]["panels"] if panel["gridPos"]["y"] == 1]

    assert {panel["type"] for panel in first} == {"stat"}
    assert sum(panel["gridPos"]["w"] for panel in first) == 24


@boards
def test_the_first_row_tells_first_whether_anybody_answers(board: dict[str, Any]) -> None:
    if board["uid"] in ("llama-balancer-servers", "llama-balancer-slow"):
        return
    first = board["panels"][1]

    assert "(up{" in first["targets"][0]["expr"]
    assert first["targets"][0]["instant"]


@boards
def test_no_line_is_without_a_name(board: dict[str, Any]) -> None:
    for panel in panels(board):
        if panel["type"] != "stat":
            for target in panel["targets"]:
                assert not re.search(r"(?<!\()\) or vector\(0\)$", target["expr"]), target


@boards
def test_a_share_of_nothing_is_no_share(board: dict[str, Any]) -> None:
    assert not [query for query in queries(board) if "clamp_min" in query]


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
@pytest.mark.timeout(180)
def test_grafanas_own_types_accept_the_dashboards(tmp_path: Path) -> None:
    npm = shutil.which("npm") or "npm"  # on Windows it is npm.cmd
    project = {
        "dependencies": {"@grafana/schema": "^12 || ^13", "typescript": "^5 || ^7"},
        "scripts": {
            "check": "tsc --noEmit --strict --skipLibCheck --target es2022 "
            "--module esnext --moduleResolution bundler check.ts"
        },
    }
    (tmp_path / "package.json").write_text(json.dumps(project), "utf-8")
    install = [npm, "install", "--silent", "--no-audit", "--no-fund"]
    subprocess.run(install, cwd=tmp_path, check=True, capture_output=True)
    constants = [
        f"export const {dashboard.uid.replace('-', '_')}: Ours = {written(dashboard)};"
        for dashboard in DASHBOARDS
    ]
    prelude = (HERE / "dashboards.ts").read_text("utf-8")
    (tmp_path / "check.ts").write_text("\n".join([prelude, *constants]), "utf-8")
    result = subprocess.run(
        [npm, "run", "--silent", "check"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stdout[:3000]
