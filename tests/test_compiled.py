"""What is compiled: nothing in a working tree, in the image what the build names."""

import importlib.machinery
import os
import tomllib
from pathlib import Path

import app

ROOT = Path(__file__).parents[1]
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]
NAMED = {name.removeprefix("/") for name in BUILD["targets"]["wheel"]["hooks"]["mypyc"]["include"]}
PROGRAM = Path(app.__file__).parent


def test_each_module_that_the_build_names_exists() -> None:
    assert [name for name in NAMED if not (ROOT / name).is_file()] == []


def test_what_is_tested_is_compiled_if_and_only_if_that_was_asked_for() -> None:
    asked_for = ".compiled" in os.environ.get("PYTHONPATH", "")
    endings = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    compiled = {
        f"app/{path.relative_to(PROGRAM).as_posix().partition('.')[0]}.py"
        for path in PROGRAM.rglob("*")
        if path.name.endswith(endings)
    }

    # A package's own file is compiled along with its first module.
    assert {name for name in compiled if "__init__" not in name} == (NAMED if asked_for else set())
