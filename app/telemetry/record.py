"""The facts of one request, filled in as it goes."""

from typing import Any, Final, Literal, NamedTuple

from app.apis.usage import Usage
from app.keys.key_ring import Key
from app.keys.priority import Priority
from app.routing.ledger import Lease
from app.telemetry.response_reader import ResponseReader

Outcome = Literal[
    "success",
    "client_error",
    "upstream_error",
    "timeout",
    "rejected",
    "client_disconnect",
]

Fault = Literal[
    "connect",
    "connect_timeout",
    "read_timeout",
    "reset",
    "protocol",
    "status_5xx",
    "status_429",
    "context",
]
"""What was wrong with a server; with `context`, the prompt was too long for it."""

Rejection = Literal["no_route", "queue_full", "queue_timeout", "buffer_full", "key_limit"]
"""Why the request was sent to no server."""


class Trace(NamedTuple):
    """What a trace needs to know of a request before it has ended."""

    parent: bytes
    """The server's `traceparent` (https://www.w3.org/TR/trace-context/)."""
    context: Any
    """That of the client, as OpenTelemetry holds it."""
    trace_id: int
    span_id: int


STAGES: Final = ("queue", "load", "prompt", "answer")
"""Where a model request's time goes; `load` until the model is in memory, as far as it is told."""


class Record:
    """One request, from its head to the last byte of its response.

    Times are in seconds on the monotonic clock. `server`, `instance` and `reason` are
    those of the last attempt; `failures` names the servers that could not be reached before, or
    that turned the request away.
    """

    # No dataclass: compiled code would call its interpreted constructor for each request.

    def __init__(self, id: str, endpoint: str, address: str, started: float) -> None:  # noqa: A002
        self.id = id
        self.endpoint = endpoint
        """A path of ours or of OpenAI's API, else `other`: never what a client made up."""
        self.path = endpoint
        """The path as the client wrote it, for people."""
        self.address = address
        self.started = started
        self.key: Key | None = None
        """What the client showed; None where nobody needs a key."""
        self.priority: Priority = "normal"
        """How soon it has its turn where it waits."""
        self.trace: Trace | None = None
        """None where nobody wants traces."""
        self.username: str | None = None
        self.session = ""
        """What the client calls the conversation."""
        self.user_agent = b""
        """What the client calls itself (RFC 9110 section 10.1.5)."""
        self.model = ""
        self.asked_model = ""
        """The model that was asked for, where another responds."""
        self.stream = False
        """Whether an event stream was asked for, or came."""
        self.lease: Lease | None = None
        """The last lease; none for a request that makes no model work."""
        self.fallback = ""
        """The server that a request without a lease went to."""
        self.failures: tuple[str, ...] = ()
        self.faults: tuple[Fault, ...] = ()
        """What was wrong with each of `failures`."""
        self.ready = 0.0
        """When the request was there, so that it could be sent."""
        self.waited = 0.0
        """How long it waited in the queue, in seconds."""
        self.tokens = 0
        """How many its prompt may have, by its length."""
        self.sent: float | None = None
        """When it was sent to the last server."""
        self.first_byte: float | None = None
        self.ended = 0.0
        self.status = 0
        self.size = 0
        """What was sent to the server, in bytes of the body."""
        self.response: ResponseReader | None = None
        """What was seen of the server's response."""
        self.outcome: Outcome | None = None
        """How it ended; None, once it has ended, for a fault of our own."""
        self.fault: Fault | None = None
        """What the last server did wrong."""
        self.rejection: Rejection | None = None
        self.error = ""

    def spent(self) -> Usage | None:
        """Return what tokens it cost, estimated where the server does not say; None for none."""
        response = self.response
        usage = None if response is None else response.usage()
        if usage is not None or self.sent is None or self.status >= 400 or not self.tokens:
            return usage
        generated = 0 if response is None else response.estimate()
        return Usage(self.tokens, None, generated, estimated=True)

    def phases(self) -> tuple[float, float, float, float]:
        """Return how many seconds of it went into each of `STAGES`.

        Without a first token and without the server's word, reading counts as the answer's.
        """
        sent = self.sent
        if sent is None:
            return self.waited, 0.0, 0.0, 0.0
        load = 0.0 if self.lease is None else self.lease.load
        work = max(0.0, self.ended - sent - load)
        response, read = self.response, 0.0
        if response is not None:
            if response.first_token is not None:
                read = response.first_token - sent - load
            elif response.reading_seconds is not None:
                read = response.reading_seconds
        read = min(max(0.0, read), work)
        return self.waited, load, read, work - read

    @property
    def identity(self) -> str:
        """Who asks: the key's name where keys are needed, else the address."""
        return self.address if self.key is None else self.key.name

    @property
    def server(self) -> str:
        """Where it went, or was to go; empty where no server was found."""
        return self.fallback if self.lease is None else self.lease.server

    @property
    def instance(self) -> str:
        """The name of the model there; empty for requests without a lease."""
        return "" if self.lease is None else self.lease.instance

    @property
    def reason(self) -> str:
        """Why it went there."""
        if self.lease is None:
            return "fallback" if self.fallback else ""
        return self.lease.reason
