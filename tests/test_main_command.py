import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import app
from app.__main__ import main
from app.settings import Settings, load
from tests.fakes.environment import Environment

OLD: dict[str, Any] = {
    "servers": {
        "PC1": {
            "addr": "http://192.168.1.20",
            "health-port": 18000,
            "model-port": 8081,
            "request-max": 1,
        },
        "PC2": {"addr": "http://[fd00::2]:9000/"},
    },
    "models": {
        r"model(-\d+)?": ["PC1", "PC2"],
        'it\'s "quoted" ${HOME} $HOME': ["PC2"],
        "日本語.*": ["PC1"],
    },
    "fallback-server": "PC2",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Environment:
    return Environment(monkeypatch, tmp_path)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Put a stand-in where the server would start; list what it is given."""
    found: list[Settings] = []
    module = ModuleType("app.main")
    module.serve = lambda settings, *_: found.append(settings)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "app.main", module)
    return found


def write(content: object) -> str:
    path = Path("server-list.json")
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("argv", [[], ["serve"]])
def test_without_a_command_it_serves(
    environment: Environment, served: list[Settings], argv: list[str]
) -> None:
    environment.set(BALANCER_PORT="19000")

    assert main(argv) == 0
    assert [settings.port for settings in served] == [19000]


@pytest.mark.parametrize("argv", [[], ["serve"], ["check"]])
def test_mistakes_are_told_on_stderr_with_exit_status_2(
    environment: Environment,
    served: list[Settings],
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
) -> None:
    environment.set(BALANCER_PORT="abc", BALANCER_PROT="1")

    assert main(argv) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert [line.partition(":")[0] for line in err.splitlines()] == [
        "BALANCER_PORT",
        "BALANCER_PROT",
    ]
    assert served == []


def test_a_mistake_shows_no_traceback_in_a_process_of_its_own(environment: Environment) -> None:
    environment.set(BALANCER_PORT="abc")

    done = subprocess.run(
        [sys.executable, "-m", "app"],
        cwd=Path(app.__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("BALANCER_PORT: must be a whole number")
    assert "Traceback" not in done.stderr


def test_check_prints_what_it_understood(
    environment: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.set(
        BALANCER_SERVERS=json.dumps(OLD["servers"]),
        BALANCER_MODELS='{"gpt-oss.*": ["PC1", "PC2"], "q": ["PC2"]}',
        BALANCER_FALLBACK_SERVER="PC2",
        BALANCER_HOST="::1",
    )

    assert main(["check"]) == 0

    assert capsys.readouterr().out.splitlines() == [
        "Listens on [::1]:18000",
        "Servers, in order of preference:",
        "  PC1  http://192.168.1.20:8081, health on http://192.168.1.20:18000, at most 1 at once",
        "  PC2  http://[fd00::2]:9000, no health address, as many at once as it tells slots",
        "Models, the first match decides:",
        "  gpt-oss.*  -> PC1, PC2",
        "  q          -> PC2",
        "Routed by their model: /v1/chat/completions",
        "Everything else goes to PC2",
        "  Requests of other APIs find no model there that only another server has.",
        "  BALANCER_ROUTED_PATHS=all routes them by their model, too.",
    ]


def test_check_prints_what_is_unusual(
    environment: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    server = {"addr": "http://h:1", "health": "Ollama", "tier": 2, "weight": 0.5}
    environment.set(
        BALANCER_SERVERS=json.dumps({"PC1": server}),
        BALANCER_ALIASES='{"gpt-4o": "qwen3:8b"}',
        BALANCER_ADOPT_SLOTS="false",
    )

    assert main(["check"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[2].endswith("any number at once, asked as ollama, tier 2, weight 0.5")
    assert "gpt-4o stands for qwen3:8b" in lines


@pytest.mark.usefixtures("environment")
def test_check_warns_of_what_others_can_reach_without_a_key(
    environment: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.set(BALANCER_HOST="0.0.0.0", BALANCER_SERVERS='{"A": {"addr": "http://10.0.0.1"}}')

    main(["check"])

    told = capsys.readouterr().out
    assert "Anybody who reaches 0.0.0.0 may use every model" in told
    assert "llama-balancer key new NAME" in told
    assert "BALANCER_INSECURE" in told


def test_check_says_that_there_are_no_servers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    assert "No servers" in capsys.readouterr().out


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])

    assert capsys.readouterr().out == f"llama-balancer {app.__version__}\n"


def test_an_unknown_command_is_exit_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["sevre"])

    assert "sevre" in capsys.readouterr().err


def test_what_import_prints_loads_again(
    environment: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", write(OLD)]) == 0
    environment.dotenv(capsys.readouterr().out)

    settings = load()

    assert list(settings.models) == list(OLD["models"])
    assert settings.models[r"model(-\d+)?"] == ("PC1", "PC2")
    fleet = settings.fleet()
    assert fleet.fallback == "PC2"
    assert fleet.servers["PC1"].health_base == "http://192.168.1.20:18000"
    assert fleet.servers["PC1"].model_base == "http://192.168.1.20:8081"
    assert fleet.servers["PC1"].request_max == 1
    assert fleet.servers["PC2"].model_base == "http://[fd00::2]:9000"


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a POSIX shell")
def test_what_import_prints_can_be_sourced_by_a_shell(
    environment: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["import", write(OLD)])
    environment.dotenv(capsys.readouterr().out)
    from_file = load()

    done = subprocess.run(
        ["sh", "-c", 'set -a; . ./.env; exec "$0" -c "$1"', sys.executable, SHOW],
        capture_output=True,
        check=True,
        env={**os.environ, "HOME": "/home/nobody"},
    )
    (environment.folder / ".env").unlink()
    environment.set(json.loads(done.stdout))

    assert load() == from_file


SHOW = """
import json, os
print(json.dumps({k: v for k, v in os.environ.items() if k.startswith("BALANCER_")}))
"""


names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@given(st.lists(names, min_size=1, max_size=3, unique=True), names)
@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None
)
def test_any_name_survives_the_import(
    environment: Environment,
    capsys: pytest.CaptureFixture[str],
    servers: list[str],
    model: str,
) -> None:
    content: dict[str, Any] = {
        "servers": {name: {"addr": "http://pc"} for name in servers},
        "models": {re.escape(model) + r"\\(-\d+)?": servers},
    }
    assert main(["import", write(content)]) == 0
    environment.dotenv(capsys.readouterr().out)

    settings = load()

    assert list(settings.servers) == servers
    assert dict(settings.models) == {
        pattern: tuple(names) for pattern, names in content["models"].items()
    }


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    "key", ["fallback-server", "fallback_server", "default-server", "Default_Server"]
)
def test_import_knows_the_fallback_by_several_names(
    capsys: pytest.CaptureFixture[str], key: str
) -> None:
    assert main(["import", write({"servers": OLD["servers"], key: "PC2"})]) == 0

    assert "BALANCER_FALLBACK_SERVER='PC2'" in capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("environment")
def test_import_tells_what_it_leaves_out_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", write({**OLD, "theme": "dark"})]) == 0

    out, err = capsys.readouterr()
    assert "BALANCER_SERVERS=" in out
    assert err == 'server-list.json: "theme" has no meaning here and is left out\n'


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "server-list.json: is not valid JSON"),
        ("[]", "server-list.json: must hold a JSON object"),
        ('{"servers": {}, "servers": {}}', 'server-list.json: has the key "servers" twice'),
        ({**OLD, "models": {"a": ["PC9"]}}, 'BALANCER_MODELS: a: names an unknown server "PC9"'),
        ({"servers": {"PC1": {"addr": "pc1"}}}, "BALANCER_SERVERS: PC1.addr: must begin with"),
    ],
)
def test_import_tells_a_mistake_in_the_file_and_prints_nothing(
    capsys: pytest.CaptureFixture[str],
    content: object,
    told: str,
) -> None:
    assert main(["import", write(content)]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(told)


def test_import_tells_that_there_is_no_such_file(
    environment: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(environment.folder / "missing.json")]) == 2
    assert "missing.json: cannot be read" in capsys.readouterr().err


def test_a_new_key_is_printed_with_the_line_that_lets_it_in(
    environment: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["key", "new", "alice"]) == 0
    printed = capsys.readouterr().out
    key = re.search(r"sk-\S+", printed)
    line = re.search(r"BALANCER_API_KEYS=.*", printed)
    assert key is not None
    assert line is not None
    assert key[0] not in line[0]
    Path(".env").write_text(line[0], encoding="utf-8")

    found = load().key_ring().find({b"x-api-key": key[0].encode()})

    assert found is not None
    assert found.name == "alice"
    assert main(["key", "list"]) == 0
    assert capsys.readouterr().out == "alice\n"


def test_a_name_that_no_key_can_have_gets_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "new", "with space"]) == 2
    assert "sk-" not in capsys.readouterr().out


def test_check_says_who_joins_whom(
    environment: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.set(BALANCER_JOIN_TOKEN="what-machines-show")
    assert main(["check"]) == 0
    assert "Machines may join that show BALANCER_JOIN_TOKEN" in capsys.readouterr().out

    environment.set(BALANCER_JOIN="http://10.0.0.1:18000")
    assert main(["check"]) == 0
    assert (
        "Joins http://10.0.0.1:18000 with the model servers on the usual ports"
        in capsys.readouterr().out
    )


def test_check_names_the_servers_that_were_added_and_what_is_wrong_with_their_file(
    environment: Environment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "servers.json"
    kept.write_text('{"servers": {"PC7": {"addr": "http://10.0.0.7"}}}')
    environment.set(BALANCER_STATE_DIR=str(tmp_path))
    assert main(["check"]) == 0
    assert "Added over the admin API: PC7" in capsys.readouterr().out

    kept.write_text("torn")
    assert main(["check"]) == 2
    assert str(kept) in capsys.readouterr().err
