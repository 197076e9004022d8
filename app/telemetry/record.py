"""The facts of one request, filled in as it goes."""

from dataclasses import dataclass
from typing import Literal

Outcome = Literal[
    "success",
    "client_error",
    "upstream_error",
    "timeout",
    "rejected",
    "client_disconnect",
]


@dataclass(slots=True)
class Record:
    """One request, from its head to the last byte of its answer.

    Times are in seconds on the monotonic clock. `server`, `instance` and `reason` tell
    where the last attempt went; `failures` names the servers that could not be reached before.
    """

    id: str
    endpoint: str
    """A path of ours or of OpenAI's API, else `other`: never what a client made up."""
    address: str
    started: float
    username: str | None = None
    model: str = ""
    stream: bool = False
    server: str = ""
    instance: str = ""
    reason: str = ""
    failures: tuple[str, ...] = ()
    waited: float = 0.0
    """How long it waited for a place, in seconds."""
    sent: float | None = None
    """When it was sent to the server that answered."""
    first_byte: float | None = None
    ended: float = 0.0
    status: int = 0
    outcome: Outcome | None = None
    """How it ended; None, once it has ended, for a fault of our own."""
    error: str = ""
