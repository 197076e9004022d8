"""An environment of a test's own: none of our variables, and an empty folder to run in."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from app.settings import variables


class Environment:
    """What a test sets before it loads the settings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._monkeypatch = monkeypatch
        self.folder = folder
        self.secrets = folder / "secrets"
        for name in os.environ:
            if name.upper().startswith("BALANCER_"):
                monkeypatch.delenv(name)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(variables, "SECRETS_DIR", self.secrets)

    def set(self, values: Mapping[str, str] | None = None, /, **more: str) -> None:
        """Set variables."""
        for name, text in {**(values or {}), **more}.items():
            self._monkeypatch.setenv(name, text)

    def dotenv(self, text: str) -> None:
        """Write the `.env` file."""
        (self.folder / ".env").write_text(text, encoding="utf-8")

    def secret(self, name: str, text: str) -> None:
        """Write a file into the default folder of secrets."""
        self.secrets.mkdir(exist_ok=True)
        (self.secrets / name).write_text(text, encoding="utf-8")
