"""The store's clock, by which replicas tell each other when something was."""

from time import monotonic


class StoreClock:
    """Converts between our monotonic clock and the store's, both in seconds."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def set(self, now: float, asked: float) -> None:
        """Take in what the store's clock told between `asked`, on our clock, and now."""
        self._ahead = now - (asked + monotonic()) / 2

    def there(self, at: float) -> float:
        """Return what the store's clock shows at a time of ours."""
        return at + self._ahead

    def here(self, at: float) -> float:
        """Return what our clock shows at a time of the store's."""
        return at - self._ahead
