"""The clients' connections, of which there are only so many."""

from collections.abc import Callable, Iterable
from typing import Final, Protocol

UNBOUNDED: Final = 2**31


class Connection(Protocol):
    """A client's connection, as far as it takes room."""

    peer: str

    @property
    def idle_since(self) -> float | None:
        """Since when it has no request, by the loop's time; None while it has one."""

    def close(self) -> None:
        """Close it."""


class Connections:
    """Knows all connections, in all and by address, and closes the longest idle for a new one.

    `exempt` tells of which addresses there may be any number: proxies, whose clients are many.
    """

    def __init__(
        self,
        most: int = UNBOUNDED,
        most_of_one: int = UNBOUNDED,
        exempt: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.bound(most, most_of_one, exempt)
        self._by_peer: dict[str, dict[Connection, None]] = {}
        self._count = 0

    def bound(self, most: int, most_of_one: int, exempt: Callable[[str], bool]) -> None:
        """Keep to these bounds from now on; those that there are stay."""
        self._most = most
        self._most_of_one = most_of_one
        self._exempt = exempt

    def add(self, connection: Connection) -> bool:
        """Take a connection in; False where there is no room, as all others are at work."""
        peer = connection.peer
        own = self._by_peer.get(peer, {})
        if len(own) >= self._most_of_one and not self._exempt(peer) and not self._make_room(own):
            return False
        if self._count >= self._most and not self._make_room(
            [one for others in self._by_peer.values() for one in others]
        ):
            return False
        self._by_peer.setdefault(peer, {})[connection] = None
        self._count += 1
        return True

    def discard(self, connection: Connection) -> None:
        """Note that a connection is gone, or of no concern any more."""
        own = self._by_peer.get(connection.peer)
        if own is not None and connection in own:
            del own[connection]
            self._count -= 1
            if not own:
                del self._by_peer[connection.peer]

    def _make_room(self, connections: Iterable[Connection]) -> bool:
        longest, since = None, 0.0
        for one in connections:
            idle = one.idle_since
            if idle is not None and (longest is None or idle < since):
                longest, since = one, idle
        if longest is None:
            return False
        self.discard(longest)
        longest.close()
        return True
