"""The priorities of queued requests."""

from typing import Final, Literal

Priority = Literal["interactive", "normal", "batch"]

PRIORITIES: Final[tuple[Priority, ...]] = ("interactive", "normal", "batch")
"""The highest first."""

HEADER: Final = b"x-balancer-priority"
"""The request header that lowers a request's own priority."""


def lowered(priority: Priority, asked: bytes | None) -> Priority:
    """Return the priority of a request that asks for another than its key's: the lower one.

    Raises:
        ValueError: it asks for what is no priority.
    """
    if asked is None:
        return priority
    wanted = asked.decode("latin-1").lower()
    if wanted not in PRIORITIES:
        raise ValueError(f"{HEADER.decode()} must be one of {', '.join(PRIORITIES)}")
    return max(priority, wanted, key=PRIORITIES.index)
