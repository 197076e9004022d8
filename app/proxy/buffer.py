"""What of requests' bodies is held at once, over all requests."""


class Buffer:
    """Counts the bytes of bodies that are held until a server has the request; never too many."""

    __slots__ = ("held", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def take(self, size: int) -> bool:
        """Make room for so many bytes more; False where there is none."""
        if self.held + size > self.limit:
            return False
        self.held += size
        return True

    def give_back(self, size: int) -> None:
        """Note that so many bytes are held no more."""
        self.held -= size
