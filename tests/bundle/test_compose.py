"""The compose files and the image's recipe."""

import json
import re
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.bundle.stack import ROOT, has_compose, run

DOCKER = ROOT / "docker"
LOCKS = [DOCKER / "requirements.txt", DOCKER / "requirements-build.txt"]
RECIPE = (DOCKER / "Dockerfile").read_text("utf-8")

compose = pytest.mark.skipif(not has_compose(), reason="Docker with Compose is not installed")


def configuration(*files: str, **variables: str) -> dict[str, Any]:
    words = [word for name in files for word in ("--file", name)]
    # The developer's own .env must not come between.
    with TemporaryDirectory() as folder:
        empty = Path(folder) / "env"
        empty.touch()
        options = ["--env-file", str(empty), *words, "--profile", "*"]
        result = run("compose", *options, "config", "--format", "json", **variables)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@compose
@pytest.mark.parametrize(
    "extra", [(), ("docker/compose.gpu.yaml",), ("docker/compose.cdi.yaml",)], ids=str
)
def test_every_combination_of_files_is_valid(extra: tuple[str, ...]) -> None:
    services = configuration("compose.yaml", *extra)["services"]

    assert set(services) == {"balancer", "prometheus", "grafana", "demo", "pc1", "pc2", "traffic"}
    wants_gpu = "deploy" in services["balancer"]
    assert wants_gpu == bool(extra)


@compose
def test_both_files_for_nvidia_s_gpus_are_refused_together() -> None:
    files = ("compose.yaml", "docker/compose.gpu.yaml", "docker/compose.cdi.yaml")
    options = [word for name in files for word in ("--file", name)]

    result = run("compose", *options, "config", "--quiet")

    assert result.returncode != 0
    assert "either-compose.gpu.yaml-or-compose.cdi.yaml" in result.stderr


@compose
@pytest.mark.parametrize("proxy", ["caddy", "traefik"])
def test_a_proxy_in_front_is_believed_and_is_the_only_one(proxy: str) -> None:
    found = configuration("compose.yaml", f"docker/compose.{proxy}.yaml", DOMAIN="llm.example.com")
    balancer, front = found["services"]["balancer"], found["services"][proxy]
    [network] = found["networks"]["front"]["ipam"]["config"]

    assert balancer["environment"]["BALANCER_ALLOWED_HOSTS"] == "llm.example.com"
    trusted = balancer["environment"]["BALANCER_TRUSTED_PROXIES"].split(",")
    assert trusted == ["127.0.0.0/8", "::1/128", network["subnet"]]
    assert set(balancer["networks"]) == {"default", "front"}
    assert set(front["networks"]) == {"front"}
    assert [port["target"] for port in front["ports"]] == [80, 443]


@compose
def test_what_starts_without_a_profile_needs_no_gpu_and_no_demo() -> None:
    services = configuration("compose.yaml")["services"]
    always = {name for name, service in services.items() if not service.get("profiles")}

    assert always == {"balancer", "prometheus", "grafana"}
    assert "BALANCER_SERVERS" not in services["balancer"]["environment"]


@compose
def test_every_port_is_published_to_this_machine_alone_unless_env_says_otherwise() -> None:
    services = configuration("compose.yaml")["services"]
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}

    opened = configuration("compose.yaml", BALANCER_PUBLISH="0.0.0.0:80")["services"]["balancer"]
    assert (opened["ports"][0]["host_ip"], opened["ports"][0]["published"]) == ("0.0.0.0", "80")


@compose
def test_every_container_is_hardened_and_its_log_rotates() -> None:
    for name, service in configuration("compose.yaml")["services"].items():
        assert service.get("read_only", False) == (name != "grafana")
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}


@compose
def test_no_two_services_build_one_image() -> None:
    services = configuration("compose.yaml")["services"].values()
    built = [service["image"] for service in services if "build" in service]

    assert sorted(built) == sorted(set(built))
    assert {s["image"] for s in services if s["image"].startswith("llama-balancer")} == set(built)


@compose
def test_every_service_that_needs_the_image_of_another_starts_after_it() -> None:
    services = configuration("compose.yaml")["services"]

    def before(name: str) -> set[str]:
        found = set(services[name].get("depends_on", ()))
        return found.union(*map(before, found))

    for name, service in services.items():
        if service["image"].startswith("llama-balancer"):
            assert any(
                services[one]["image"] == service["image"] and "build" in services[one]
                for one in {name, *before(name)}
            )


@compose
def test_the_health_check_is_the_image_s_own() -> None:
    [line] = re.findall(r"^HEALTHCHECK (.*)$", RECIPE, re.MULTILINE)
    options = dict(re.findall(r"--([\w-]+)=(\w+)", line))
    services = configuration("compose.yaml")["services"]

    for name in ("balancer", "demo"):
        check = services[name]["healthcheck"]
        assert check["test"] == json.loads(line[line.index("[") :].replace("[", '["CMD", '))
        for option, value in options.items():
            assert check[option.replace("-", "_")] == value


@compose
def test_the_demo_s_servers_have_names_of_their_own() -> None:
    servers = json.loads(
        configuration("compose.yaml")["services"]["demo"]["environment"]["BALANCER_SERVERS"]
    )

    assert all(name.startswith("demo-") for name in servers)


@compose
def test_grafana_s_password_is_not_told_to_the_balancer() -> None:
    services = configuration("compose.yaml", GRAFANA_PASSWORD="secret")["services"]

    assert "secret" in services["grafana"]["environment"].values()
    assert services["balancer"]["environment"]["GRAFANA_PASSWORD"] == ""


@compose
def test_images_of_others_have_a_version() -> None:
    for service in configuration("compose.yaml")["services"].values():
        if not service["image"].startswith("llama-balancer"):
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])


@compose
def test_a_container_is_given_longer_to_stop_than_its_requests() -> None:
    from app.settings import Settings

    service = configuration("compose.yaml")["services"]["balancer"]
    seconds = float(service["stop_grace_period"].removesuffix("s"))

    assert seconds > Settings.model_fields["shutdown_timeout"].default


def test_the_locks_hold_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    compiler = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
    built_with = [*project["build-system"]["requires"], *compiler["dependencies"]]
    for lock, wanted in zip(LOCKS, [project["project"]["dependencies"], built_with], strict=True):
        locked = set(re.findall(r"^([\w-]+)==", lock.read_text("utf-8"), re.MULTILINE))
        assert {re.split(r"[\[<>=;]", line)[0].lower() for line in wanted} <= locked


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_has_hashes_and_no_address(path: Path) -> None:
    lock = path.read_text("utf-8")

    assert "://" not in lock
    assert not re.search(r"^\s*-", lock.replace("    --hash=", ""), re.MULTILINE)
    for entry in re.split(r"\n(?=\w)", lock.strip()):
        assert "--hash=sha256:" in entry, entry


def test_what_changes_often_comes_last_in_the_image() -> None:
    assert RECIPE.index("requirements.txt") < RECIPE.index("COPY app app")
    assert "USER 65532:65532" in RECIPE
    assert "--require-hashes" in RECIPE
    assert not re.search(r"\b(curl|wget)\b", RECIPE)


def test_what_containers_mount_can_be_read_by_their_users() -> None:
    for folder in (*(DOCKER / n for n in ("caddy", "prometheus", "traefik")), ROOT / "grafana"):
        for path in [folder, *folder.rglob("*")]:
            wanted = 0o005 if path.is_dir() else 0o004
            assert path.stat().st_mode & wanted == wanted, path


def test_secrets_stay_out_of_the_image() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()

    assert ignored[0] == "*"
    assert "!.env" not in ignored
    assert not [line for line in ignored if line.startswith("!") and "*" in line]


def test_every_file_of_the_bundle_is_named_in_a_document_or_by_another() -> None:
    known = "\n".join(
        path.read_text("utf-8")
        for path in (
            *(ROOT / "docs").glob("*.md"),
            ROOT / "compose.yaml",
            DOCKER / "prometheus" / "prometheus.yml",
        )
    )
    for path in [*DOCKER.glob("*.yaml"), *(DOCKER / "prometheus").glob("*")]:
        assert Path(path).name in known, path


def test_every_variable_of_the_compose_file_is_in_the_example_with_its_default() -> None:
    text = (ROOT / "compose.yaml").read_text("utf-8")
    example = (ROOT / ".env.example").read_text("utf-8")
    ours = {"VERSION", "REVISION", "GRAFANA_TAG", "PROMETHEUS_TAG"}  # of those who build
    variables = re.findall(r"\$\{(\w+):-(.*?)\}", text)

    assert len(variables) > 5
    for name, default in variables:
        assert name in ours or f"{name}={default}\n" in example, name
