"""The facts of one request, filled in as it goes."""

from dataclasses import dataclass
from typing import Literal

from app.routing.residency import Claim
from app.telemetry.response_reader import Answer

Outcome = Literal[
    "success",
    "client_error",
    "upstream_error",
    "timeout",
    "rejected",
    "client_disconnect",
]

Fault = Literal[
    "connect", "connect_timeout", "read_timeout", "reset", "protocol", "status_5xx", "status_429"
]
"""What was wrong with a server."""

Rejection = Literal["no_route", "queue_full", "queue_timeout"]
"""Why no server was asked."""


@dataclass(slots=True)
class Record:
    """One request, from its head to the last byte of its answer.

    Times are in seconds on the monotonic clock. `server`, `instance` and `reason` tell
    where the last attempt went; `failures` names the servers that could not be reached before, or
    that turned the request away.
    """

    id: str
    endpoint: str
    """A path of ours or of OpenAI's API, else `other`: never what a client made up."""
    address: str
    started: float
    username: str | None = None
    model: str = ""
    stream: bool = False
    """Whether an event stream was asked for, or came."""
    server: str = ""
    instance: str = ""
    reason: str = ""
    claim: Claim | None = None
    """What the server's cache was believed to hold."""
    failures: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    """What was wrong with each of `failures`."""
    ready: float = 0.0
    """When the request was there, so that it could be sent."""
    waited: float = 0.0
    """How long it waited for a place, in seconds."""
    sent: float | None = None
    """When it was sent to the server that answered."""
    first_byte: float | None = None
    ended: float = 0.0
    status: int = 0
    size: int = 0
    """What was sent to the server, in bytes of the body."""
    answer: Answer | None = None
    """What was seen of the server's answer."""
    outcome: Outcome | None = None
    """How it ended; None, once it has ended, for a fault of our own."""
    fault: Fault | None = None
    """What the server that answered, or should have, did wrong."""
    rejection: Rejection | None = None
    error: str = ""
