import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fakes.ports import free_port

ROOT = Path(__file__).parents[2]

MOST_MEGABYTES = 100


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what an installation takes from the repository, and install it."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("LICENSE", "Makefile", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in ("app", "docker"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    told = subprocess.run(["make", "install"], cwd=folder, capture_output=True, check=False)
    assert told.returncode == 0, told.stderr.decode()
    return folder


def test_what_is_installed_is_small(clone: Path) -> None:
    files = [path for path in (clone / ".venv").rglob("*") if not path.is_symlink()]
    assert sum(path.stat().st_blocks * 512 for path in files) < MOST_MEGABYTES * 1_000_000


def test_the_tools_of_the_tests_are_not_installed(clone: Path) -> None:
    names = {path.name for path in (clone / ".venv").glob("lib/*/site-packages/*")}
    assert "uvicorn" in names
    assert not names & {"pytest", "mypy", "watchfiles", "yaml", "websockets"}


def test_the_installed_demo_prints_a_response(clone: Path, tmp_path: Path) -> None:
    program = clone / ".venv" / "bin" / "llama-balancer"
    command = [str(program), "demo", "--once", "--port", str(free_port())]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    demo = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert (demo.returncode, demo.stderr) == (0, "")
    assert demo.stdout.strip().endswith(".")
