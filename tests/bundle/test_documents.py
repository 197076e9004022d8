"""The documents tell the truth: their tables are complete, their commands run."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import BaseModel

import app
from app.__main__ import main
from app.demo.model_server import ModelServer
from app.settings import Settings
from app.settings.api_key import ApiKeySettings
from app.settings.server import ServerSettings
from tests.fakes.balancer import Running, balancer
from tests.fakes.serving import serving

ROOT = Path(app.__file__).parent.parent
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        *sorted((ROOT / "docs").glob("*.md")),
    ]
}
README = DOCUMENTS["README.md"]
CONFIGURATION = DOCUMENTS["docs/configuration.md"]
OPERATIONS = DOCUMENTS["docs/operations.md"]
HERE = "127.0.0.1:18000"


def settings_table() -> str:
    """Write the table of all settings."""
    lines = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        forms = name == "username_pattern"
        shown = "Japanese and English forms" if forms else default(field.default)
        lines.append(f"| `BALANCER_{name.upper()}` | {shown} | {cell(field.description)} |")
    return "\n".join(lines)


def table(model: type[BaseModel]) -> str:
    """Write the table of the keys of a JSON object."""
    lines = ["| Key | Default | Meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        shown = "required" if field.is_required() else default(field.default)
        lines.append(f"| `{name}` | {shown} | {cell(field.description)} |")
    return "\n".join(lines)


def default(value: object) -> str:
    """Write a default for a table."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{','.join(value)}`" if value else ""
    return f"`{value}`"


def cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


def held(text: str, mark: str) -> str:
    """Take what stands between two marks."""
    found = re.search(f"<!-- {mark} -->\n(.*?)\n?<!-- /{mark} -->", text, re.DOTALL)
    assert found is not None
    return found[1]


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(f"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    server = ModelServer("PC1", ["qwen3:8b"])
    with serving(server.app) as served:
        with balancer({"PC1": {"addr": served.url}}, {".*": ["PC1"]}) as found:
            yield found


def test_every_setting_is_in_the_table() -> None:
    assert held(CONFIGURATION, "settings") == settings_table()


def test_every_key_of_a_server_is_in_the_table() -> None:
    assert held(CONFIGURATION, "server keys") == table(ServerSettings)


def test_every_key_of_an_api_key_is_in_the_table() -> None:
    assert held(CONFIGURATION, "keys of an API key") == table(ApiKeySettings)


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = [
        name
        for text in DOCUMENTS.values()
        for pair in re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)`", text, re.MULTILINE)
        for name in pair
        if name
    ]

    assert len(named) > 8
    assert [name for name in named if name not in targets] == []


def test_every_link_to_a_file_leads_to_one() -> None:
    for document, text in DOCUMENTS.items():
        for link in re.findall(r"\]\(([^)]+)\)", text):
            if not urlsplit(link).scheme:
                assert (ROOT / document).parent.joinpath(link).is_file(), (document, link)


def test_every_variable_exists() -> None:
    example = (ROOT / ".env.example").read_text("utf-8")
    for document, text in DOCUMENTS.items():
        for name in re.findall(r"\bBALANCER_(?!SERVERS__)[A-Z_]*[A-Z]\b", text):
            assert f"{name}=" in example, (document, name)


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


def test_the_file_with_three_servers_is_right(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    [block] = blocks("env", CONFIGURATION)
    (tmp_path / ".env").write_text(block)

    assert main(["check"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "PC2 http://192.168.1.21:8081" in printed
    assert "RESERVE http://192.168.1.30:11434" in printed


def test_the_files_for_coding_agents_are_right(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What is in them was tried with the agents themselves."""
    monkeypatch.chdir(tmp_path)
    text = DOCUMENTS["docs/clients.md"]
    [block] = blocks("env", text)
    (tmp_path / ".env").write_text(block)

    assert main(["check"]) == 0
    assert "claude-haiku.*" in capsys.readouterr().out
    configured = [json.loads(file) for file in blocks("json", text)]
    configured += [tomllib.loads(file) for file in blocks("toml", text)]
    assert len(configured) == 3
    assert all(f"http://{HERE}/v1" in json.dumps(file) for file in configured)


def test_the_example_of_a_new_kind_of_server_is_one(tmp_path: Path) -> None:
    [code] = blocks("python", DOCUMENTS["CONTRIBUTING.md"])
    lines = (
        "import asyncio",
        code,
        "async def get(path):",
        '    return 200, b\'{"status": "loading"}\'',
    )
    told = "print(asyncio.run(TabbyAPI('A').report(get, in_use=False)).loading)"
    result = subprocess.run(
        [sys.executable, "-c", "\n".join((*lines, told))], capture_output=True, check=True, cwd=ROOT
    )

    assert result.stdout.strip() == b"True"


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


def test_the_tests_that_show_a_promise_are_there() -> None:
    for document, count in (("SECURITY.md", 10), ("README.md", 11)):
        named = {*re.findall(r"`(tests/[^`]+)`", DOCUMENTS[document])}
        assert len(named) == count, document
        assert all((ROOT / path).is_file() for path in named)


def test_the_soak_tries_as_many_as_the_document_says() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    variables = dict(re.findall(r"BALANCER_([A-Z_]+)=(\d+)", makefile))

    assert variables["DEATHS"] == "480"
    assert variables["RACES"] == variables["LEAVERS"] == "20000"
    assert variables["LATE_LEAVERS"] == "600"
    assert (variables["STREAMS"], variables["STREAM_SECONDS"]) == ("1000", "600")
    assert int(variables["RACING"]) * 20 == 20_000


def test_every_path_of_the_table_has_a_response(running: Running) -> None:
    paths = re.findall(r"^\| `(/[^`]*)` \|", OPERATIONS, re.MULTILINE)
    assert len(paths) == 10
    assert [httpx.get(running.url + path).status_code for path in paths] == [200] * 10
