"""Who goes first where requests wait."""

from typing import Final, Literal

Priority = Literal["interactive", "normal", "batch"]

PRIORITIES: Final[tuple[Priority, ...]] = ("interactive", "normal", "batch")
"""The highest first."""

HEADER: Final = b"x-balancer-priority"
"""By which a request lowers its own priority."""


def lowered(priority: Priority, asked: bytes | None) -> Priority:
    """Return what a request goes by that asks for another priority than its key's.

    It may ask for less, never for more.

    Raises:
        ValueError: it asks for what is no priority.
    """
    if asked is None:
        return priority
    wanted = asked.decode("latin-1").lower()
    if wanted not in PRIORITIES:
        raise ValueError(f"{HEADER.decode()} must be one of {', '.join(PRIORITIES)}")
    return max(priority, wanted, key=PRIORITIES.index)
