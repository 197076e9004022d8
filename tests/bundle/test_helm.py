"""The chart for Kubernetes: what it renders is what a cluster takes."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "docker" / "helm"
HELM = shutil.which("helm") or shutil.which("helm", path=str(Path.home() / "go" / "bin"))

pytestmark = pytest.mark.skipif(HELM is None, reason="helm is not installed")

SERVERS = {"llama": {"addr": "dns+http://llama.models:8080", "request_max": 4}}
EVERYTHING = {
    "replicas": 3,
    "servers": SERVERS,
    "models": {".*": ["llama"]},
    "settings": {"QUEUE_MAX": 50, "ROUTED_PATHS": "all"},
    "secrets": {"ADMIN_KEY": "an-admin-key", "VALKEY_URL": "redis://valkey:6379/0"},
    "networkPolicy": {"enabled": True, "from": [{"namespaceSelector": {}}]},
    "serviceMonitor": {"enabled": True},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboards": {"enabled": True},
    "route": {"enabled": True, "parentRefs": [{"name": "gateway"}], "hostnames": ["llm.example"]},
}
SCALED = {"autoscaling": {"enabled": True}, "existingSecret": "mine"}
OF_OPERATORS = {"ServiceMonitor", "PrometheusRule", "HTTPRoute"}
"""Kinds that come with the operators that read them: Kubernetes' own schemas do not know them."""


def helm(*words: str) -> "subprocess.CompletedProcess[str]":
    """Run helm, for a cluster of a version that there is: built from source it knows none."""
    assert HELM is not None
    command = [HELM, *words, "--kube-version", "1.31"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rendered(tmp_path: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Render the chart with some values."""
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps(values))
    told = helm(
        "template", "llama-balancer", str(CHART), "--namespace", "llm", "--values", str(file)
    )
    assert told.returncode == 0, told.stderr
    return [one for one in yaml.safe_load_all(told.stdout) if one]


def one(found: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    [object_] = [each for each in found if each["kind"] == kind]
    return object_


@pytest.mark.parametrize("values", [{}, EVERYTHING, SCALED])
def test_a_cluster_takes_what_is_rendered(tmp_path: Path, values: dict[str, Any]) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    found = rendered(tmp_path, values)

    assert {"ConfigMap", "Deployment", "Service"} <= {each["kind"] for each in found}
    for each in found:
        if each["kind"] not in OF_OPERATORS:
            validate.validate(each, validate.latest_version(), strict=True)


def test_helm_finds_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps(EVERYTHING))
    told = helm("lint", "--strict", str(CHART), "--values", str(file))

    assert told.returncode == 0, told.stdout + told.stderr


def test_the_settings_are_those_that_the_program_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = rendered(tmp_path, EVERYTHING)
    variables = one([x for x in found if "BALANCER_SERVERS" in x.get("data", ())], "ConfigMap")[
        "data"
    ]
    variables |= one(found, "Secret")["stringData"]
    names = {f"BALANCER_{name.upper()}" for name in Settings.model_fields}
    loaded = {name.removeprefix("BALANCER_").lower(): text for name, text in variables.items()}

    assert set(variables) <= names
    assert json.loads(loaded["servers"]) == SERVERS
    assert loaded["queue_max"] == "50"
    assert loaded["valkey_url"] == "redis://valkey:6379/0"


def test_a_pod_is_stopped_no_sooner_than_its_streams_may_end(tmp_path: Path) -> None:
    found = rendered(tmp_path, {"drainDelay": 5, "shutdownTimeout": 300})
    pod = one(found, "Deployment")["spec"]["template"]["spec"]

    assert pod["terminationGracePeriodSeconds"] > 305
    [container] = pod["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/llmhealth-ready"
    assert container["securityContext"]["readOnlyRootFilesystem"]


def test_the_rules_and_the_boards_are_those_of_the_bundle(tmp_path: Path) -> None:
    found = rendered(tmp_path, EVERYTHING)
    rules = yaml.safe_load((ROOT / "docker" / "prometheus" / "rules.yml").read_text("utf-8"))
    boards = {
        name: json.loads(text)
        for each in found
        if each["kind"] == "ConfigMap"
        for name, text in each["data"].items()
        if name.endswith(".json")
    }

    assert one(found, "PrometheusRule")["spec"] == rules
    assert boards == {
        file.name: json.loads(file.read_text("utf-8"))
        for file in (ROOT / "grafana" / "dashboards").glob("*.json")
    }


def test_several_replicas_without_a_store_are_refused() -> None:
    told = helm("template", "llama-balancer", str(CHART), "--set", "replicas=3")

    assert told.returncode != 0
    assert "set secrets.VALKEY_URL" in told.stderr
