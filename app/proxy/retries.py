"""Whether a request that a server has failed is sent once more, and where to."""

from enum import Enum

from app.upstream.errors import Stale, Unheard, Unreachable, UpstreamError


class Retry(Enum):
    """Where a request goes next."""

    NEVER = "never"
    SAME_SERVER = "same server"
    """Over a fresh connection."""
    ANOTHER_SERVER = "another server"


def next_try(error: UpstreamError, *, repeated: bool, repeatable: bool, routed: bool) -> Retry:
    """Decide about a request; what may have been acted on is never sent twice.

    A kept connection that was closed before the server could see the request allows one
    repeat at the same server, and no other server after that; one that gave no response
    allows it to `repeatable` requests (RFC 9110 section 9.2.2). Where no connection came
    about, a `routed` request may go to another server. `repeated`: it was sent twice already.
    """
    if repeated:
        return Retry.NEVER
    if isinstance(error, Stale) or (isinstance(error, Unheard) and repeatable):
        return Retry.SAME_SERVER
    if isinstance(error, Unreachable) and routed:
        return Retry.ANOTHER_SERVER
    return Retry.NEVER
