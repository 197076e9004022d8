"""What can go wrong with a server.

UpstreamError
├── Unreachable     no connection came about: nothing was sent
│   └── Unanswered  not even a refusal
├── Stale           a kept connection had been closed: nothing was acted on
├── Garbled         what came is not HTTP, or more than we take
├── Broken          the connection ended before the answer did
└── TimedOut        the server kept silent for too long
"""

from typing import ClassVar, Literal

Kind = Literal["connect", "connect_timeout", "read_timeout", "reset", "protocol"]


class UpstreamError(Exception):
    """An exchange with a server failed."""

    kind: ClassVar[Kind]
    """A word for metrics."""


class Unreachable(UpstreamError):
    """No connection came about: nothing was sent."""

    kind: ClassVar[Kind] = "connect"


class Unanswered(Unreachable):
    """Nobody answered the attempt to connect."""

    kind = "connect_timeout"


class Stale(UpstreamError):
    """A kept connection had been closed by the server before it saw the request."""

    kind = "reset"


class Garbled(UpstreamError):
    """What came is not HTTP, or more than we take."""

    kind = "protocol"


class Broken(UpstreamError):
    """The connection ended before the answer did."""

    kind = "reset"


class TimedOut(UpstreamError):
    """The server kept silent for too long."""

    kind = "read_timeout"
