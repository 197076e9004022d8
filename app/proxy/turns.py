"""In which order requests of one priority have their turns."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

from app.proxy.queued_request import Need, QueuedRequest

Key = TypeVar("Key")
Value = TypeVar("Value")

LOOKAHEAD: Final = 16
"""Among how many next clients one whose prompt is in a cache may go first."""

OVERTAKING_LIMIT: Final = 4
"""How many others may overtake a request for that."""


class Turns:
    """Requests that wait: addresses take turns, then the clients of one address.

    Next is the address whose last turn is longest ago and that can use a place, or one of the
    next few whose prompt is in the cache there. So a client that asks a hundred times at once,
    by whatever names, holds nobody up: an address overtakes another once, and so do clients of
    the same address, each served in the order it asked.
    """

    def __init__(self) -> None:
        # By address and client, in the order of their turns; requests in the order of arrival.
        self._lines: dict[str, dict[str, dict[QueuedRequest, None]]] = {}
        self.passed = 0
        """How many of a higher priority went first since one of these did, or began to wait."""

    def add(self, request: QueuedRequest) -> None:
        """Have a request wait; one that had its turn already is the next."""
        lines = self._lines.setdefault(request.address, {})
        line = lines.setdefault(request.client, {})
        line[request] = None
        if request.had_turn:
            _move_up(line, request)
            _move_up(lines, request.client)
            _move_up(self._lines, request.address)

    def remove(self, request: QueuedRequest) -> None:
        """Take a request out, if it is here."""
        lines = self._lines.get(request.address, {})
        line = lines.get(request.client, {})
        line.pop(request, None)
        if not line:
            lines.pop(request.client, None)
        if not lines:
            self._lines.pop(request.address, None)
        if not self._lines:
            self.passed = 0

    def move_back(self, request: QueuedRequest) -> None:
        """Let the next turn of a request's client, and of its address, be after all others'."""
        lines = self._lines.pop(request.address, None)
        if lines is not None:
            self._lines[request.address] = lines
            line = lines.pop(request.client, None)
            if line is not None:
                lines[request.client] = line

    def next(self, full: set[Need], stays: set[QueuedRequest]) -> QueuedRequest | None:
        """Find whose turn it is; None where nobody could have a place, or wants one.

        Among the next few clients with the same need, one whose prompt is in the cache of the
        free place goes first, unless it has overtaken one of those before it already, or one
        of them was overtaken often enough.
        """
        overtaken: list[QueuedRequest] = []
        for request in itertools.islice(self._firsts(full, stays), LOOKAHEAD):
            if overtaken and request.need != overtaken[0].need:
                continue  # what it could have may be none that the very next one could have
            passed = any(request.as_seen_by(one) in one.overtaken_by for one in overtaken)
            if not passed and request.held():
                for one in overtaken:
                    one.overtaken_by.add(request.as_seen_by(one))
                return request
            overtaken.append(request)
            if len(request.overtaken_by) >= OVERTAKING_LIMIT:
                break
        return overtaken[0] if overtaken else None

    def can_go(self, full: set[Need], stays: set[QueuedRequest]) -> bool:
        """Whether anybody could have a place, and wants one."""
        return any(True for _ in self._firsts(full, stays))

    def ahead(self, request: QueuedRequest) -> int:
        """Count the requests that will be served before one."""
        lines = self._lines[request.address]
        before = list(lines[request.client]).index(request)
        others = (len(line) for client, line in lines.items() if client != request.client)
        before += sum(min(length, before + 1) for length in others)
        addresses = (x for address, x in self._lines.items() if address != request.address)
        lengths = (sum(map(len, lines.values())) for lines in addresses)
        return before + sum(min(length, before + 1) for length in lengths)

    @property
    def empty(self) -> bool:
        """Whether nobody waits."""
        return not self._lines

    @property
    def clients(self) -> int:
        """How many clients wait."""
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[QueuedRequest]:
        for lines in self._lines.values():
            for line in lines.values():
                yield from line

    def __len__(self) -> int:
        return sum(len(line) for lines in self._lines.values() for line in lines.values())

    def _firsts(self, full: set[Need], stays: set[QueuedRequest]) -> Iterator[QueuedRequest]:
        """Go through the first requests that can go, one of each client, as turns would come.

        Each address has one turn, with its next client, before any has another.
        """
        addresses = [iter(lines.values()) for lines in self._lines.values()]
        while addresses:
            left = []
            for lines in addresses:
                for line in lines:
                    first = _first(line, full, stays)
                    if first is not None:
                        yield first
                        left.append(lines)
                        break
            addresses = left


def _move_up(order: dict[Key, Value], key: Key) -> None:
    """Put a key before all others."""
    rest = {other: value for other, value in order.items() if other != key}
    value = order[key]
    order.clear()
    order[key] = value
    order.update(rest)


def _first(
    line: Iterable[QueuedRequest], full: set[Need], stays: set[QueuedRequest]
) -> QueuedRequest | None:
    """Find the first request of a client's that can go."""
    for request in line:
        if request.need not in full and request not in stays:
            return request
    return None
