"""The README tells the truth: its table is complete, its commands run."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import app
from app.__main__ import main
from app.demo.model_server import ModelServer
from app.settings import Settings
from tests.fakes.balancer import Running, balancer
from tests.fakes.serving import serving

ROOT = Path(app.__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
HERE = "127.0.0.1:18000"


def settings_table() -> str:
    """Write the table that the README must hold."""
    lines = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default
        if name == "username_pattern":
            shown = "Japanese and English forms"
        elif default is None:
            shown = ""
        elif isinstance(default, bool):
            shown = f"`{str(default).lower()}`"
        elif isinstance(default, tuple):
            shown = f"`{','.join(default)}`"
        else:
            shown = f"`{default}`"
        about = (field.description or "").replace("|", "\\|")
        lines.append(f"| `BALANCER_{name.upper()}` | {shown} | {about} |")
    return "\n".join(lines)


def blocks(language: str) -> list[str]:
    return re.findall(f"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    server = ModelServer("PC1", ["qwen3:8b"])
    with serving(server.app) as served:
        with balancer({"PC1": {"addr": served.url}}, {".*": ["PC1"]}) as found:
            yield found


def test_every_setting_is_in_the_table() -> None:
    held = re.search(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", README, re.DOTALL)

    assert held is not None
    assert held[1] == settings_table()


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z]+)|`make ([a-z]+)`", README, re.MULTILINE))

    assert named
    assert {name for pair in named for name in pair if name} <= targets


def test_the_variables_of_the_first_start_are_right(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    [block] = [block for block in blocks("sh") if "BALANCER_SERVERS=" in block]
    for name, value in re.findall(r"(BALANCER_[A-Z]+)='(.*?)'", block):
        monkeypatch.setenv(name, value)

    assert main(["check"]) == 0
    assert (
        "PC1  http://192.168.1.20:8081, no health address, at most 1 at once"
        in capsys.readouterr().out
    )


def test_the_command_for_older_files_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "llama-balancer import server-list.json" in README
    old = tmp_path / "server-list.json"
    old.write_text(json.dumps({"servers": {"PC1": {"addr": "http://pc1", "model-port": 1}}}))

    assert main(["import", str(old)]) == 0
    assert "BALANCER_SERVERS=" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_line_gets_an_answer(running: Running) -> None:
    [line] = [block for block in blocks("sh") if block.startswith("curl ")]
    command = line.replace(f"http://{HERE}", running.url).strip()
    result = subprocess.run(["sh", "-c", f"{command} --silent"], capture_output=True, check=True)

    assert json.loads(result.stdout)["choices"][0]["message"]["content"]


def test_the_openai_example_prints_an_answer(running: Running) -> None:
    [code] = blocks("python")
    result = subprocess.run(
        [sys.executable, "-c", code.replace(f"http://{HERE}", running.url)],
        capture_output=True,
        check=True,
    )

    assert result.stdout.strip()


def test_the_pictures_are_there() -> None:
    pictures = re.findall(r'src(?:set)?="(.*?)"', README)

    assert len(pictures) == 2
    assert all((ROOT / picture).is_file() for picture in pictures)


def test_every_path_that_is_told_is_answered(running: Running) -> None:
    import httpx

    paths = re.findall(r"^\| `(/[^`]*)` \|", README, re.MULTILINE)
    assert len(paths) == 7
    assert [httpx.get(running.url + path).status_code for path in paths] == [200] * 7
