"""What can go wrong with a server.

UpstreamError
├── Unreachable     no connection came about: nothing was sent
│   └── Unanswered  not even a refusal
├── Stale           a kept connection had been closed: nothing was acted on
├── Garbled         what came is not HTTP, or more than we take
├── Broken          the connection ended before the response did
│   └── Unheard     a kept one, without a byte: only what may be repeated may be sent again
└── TimedOut        the server kept silent for too long
"""

from typing import ClassVar, Literal

Kind = Literal["connect", "connect_timeout", "read_timeout", "reset", "protocol"]


class OutOfSockets(Exception):
    """No connection could be made for want of files or ports: no server is to blame."""


class UpstreamError(Exception):
    """An exchange with a server failed."""

    kind: ClassVar[Kind]
    """A word for metrics."""


class PlaceTaken(Exception):
    """Another replica of the balancer was quicker: the server has no place for the request."""


class Unreachable(UpstreamError):
    """No connection came about: nothing was sent."""

    kind: ClassVar[Kind] = "connect"


class Unanswered(Unreachable):
    """Nobody answered the attempt to connect."""

    kind = "connect_timeout"


class Stale(UpstreamError):
    """A kept connection had been closed before the server could see the request."""

    kind = "reset"


class Garbled(UpstreamError):
    """What came is not HTTP, or more than we take."""

    kind = "protocol"


class Broken(UpstreamError):
    """The connection ended before the response did."""

    kind = "reset"


class Unheard(Broken):
    """A kept connection was lost without a byte of a response.

    The server may have acted on the request, and may have died of it.
    """


class TimedOut(UpstreamError):
    """The server kept silent for too long."""

    kind = "read_timeout"
