"""Where a running balancer is found by the commands of the same user on the same machine."""

import contextlib
import getpass
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from app.settings.listening import as_client, bracketed

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Running:
    """A running balancer: its process, its address, and a key that opens its own endpoints."""

    pid: int
    url: str
    key: str

    @classmethod
    def here(cls, host: str, port: int, *, tls: bool) -> "Running":
        """Describe this process, which listens there, with a new key."""
        address = bracketed(as_client(host))
        url = f"{'https' if tls else 'http'}://{address}:{port}"
        return cls(os.getpid(), url, secrets.token_urlsafe(32))

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Let the commands find it, as long as the context lasts."""
        path = None
        try:
            folder = _folder()
            path = folder / f"{self.pid}.json"
            path.touch(mode=0o600)
            path.write_text(json.dumps(asdict(self)))
        except OSError as error:  # `reload` will not find it, and SIGHUP does the same
            log.warning("running.untold", error=str(error))
        try:
            yield
        finally:
            if path is not None:
                with contextlib.suppress(OSError):
                    path.unlink()


def running() -> list[Running]:
    """Find the balancers of this user that run here."""
    found = []
    with contextlib.suppress(OSError):
        for path in sorted(_folder().glob("*.json")):
            with contextlib.suppress(OSError, ValueError, TypeError):
                one = Running(**json.loads(path.read_text()))
                if _lives(one.pid):
                    found.append(one)
                else:
                    path.unlink()
    return found


def _folder() -> Path:
    """Make the folder, which is nobody else's.

    Raises:
        OSError: it cannot be made, or is somebody else's.
    """
    folder = Path(tempfile.gettempdir()) / f"llama-balancer-{_user()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if hasattr(os, "getuid") and (
        state.st_uid != os.getuid() or not stat.S_ISDIR(state.st_mode) or state.st_mode & 0o077
    ):
        raise PermissionError(f"{folder} is open to others")
    return folder


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()


def _lives(pid: int) -> bool:
    if os.name == "nt":
        return True  # to send a signal there is to end the process
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
