"""The servers that an administrator has added while the balancer serves."""

import contextlib
import json
import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from app.discovery.server_body import read_server
from app.settings import ServerSettings, Settings, SettingsError

FILE: Final = "servers.json"
"""The file's name in BALANCER_STATE_DIR."""


class AddedServers:
    """Keeps the servers that were added, in a file where there is a folder for it.

    `kinds` of model servers may be named.
    """

    def __init__(self, settings: Settings, kinds: Collection[str] = ()) -> None:
        """Read the servers that were kept.

        Raises:
            SettingsError: the file cannot be read, or holds something else.
        """
        self._kinds = kinds
        self._file = None if settings.state_dir is None else settings.state_dir / FILE
        self._bodies: dict[str, Mapping[str, Any]] = _kept(self._file)
        self.servers: dict[str, ServerSettings] = {}
        """The servers by name, in the order in which they were added."""
        for name, body in self._bodies.items():
            try:
                self.servers[name] = read_server(name, body, settings, kinds=kinds)
            except SettingsError as error:
                raise SettingsError([f"{self._file}: {line}" for line in error.mistakes]) from None

    def body(self, name: str) -> Mapping[str, Any]:
        """Return what is set for a server, as it was told."""
        return self._bodies[name]

    def put(self, name: str, body: object, settings: Settings, *, part: bool = False) -> None:
        """Add a server, or change one; as a `part`, a body's members replace those that it had.

        A member that is null is taken out (RFC 7396).

        Raises:
            SettingsError: with every mistake that was found.
            OSError: it cannot be kept; then nothing has changed.
        """
        if part and isinstance(body, Mapping):
            merged = {**self._bodies.get(name, {}), **body}
            body = {key: value for key, value in merged.items() if value is not None}
        told = read_server(name, body, settings, kinds=self._kinds)
        self._keep({**self._bodies, name: body})
        self.servers[name] = told

    def remove(self, name: str) -> None:
        """Forget a server.

        Raises:
            OSError: that cannot be kept; then nothing has changed.
        """
        self._keep({other: body for other, body in self._bodies.items() if other != name})
        del self.servers[name]

    def _keep(self, bodies: dict[str, Any]) -> None:
        if self._file is not None:
            _write(self._file, json.dumps({"servers": bodies}, indent=2) + "\n")
        self._bodies = bodies


def _kept(file: Path | None) -> dict[str, Mapping[str, Any]]:
    if file is None:
        return {}
    try:
        text = file.read_text(encoding="utf-8")
        bodies = json.loads(text)["servers"]
        return {str(name): dict(body) for name, body in bodies.items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError([f"{file}: cannot be read: {error.strerror}"]) from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise SettingsError(
            [f"{file}: holds no servers as they were kept; mend it, or move it away"]
        ) from None


def _write(file: Path, text: str) -> None:
    """Replace a file as a whole: after a crash there is the old one or the new one."""
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as new:
            new.write(text)
            new.flush()
            os.fsync(new.fileno())
        Path(name).replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    """Have the folder know the new name after a crash, where the system can be told to."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
