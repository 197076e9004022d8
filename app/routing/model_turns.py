"""More models than memory: which server unloads one for another, and when.

Requests for a loaded model are served together: where models took turns with each request, servers
would do little but load. As with slots, a model is kept within bounds.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

from app.routing.backend import Backend
from app.routing.choice import Ask
from app.routing.model_memory import Readiness
from app.routing.seconds import WRITING, YIELD, Seconds

PROMISED: Final = 3.0
"""Seconds after which a model that was to be loaded next, and is asked for no more, is not."""


class ModelTurns:
    """Keeps models in memory by the bounds of `seconds`; what is `pinned` stays where it is."""

    def __init__(self, seconds: Seconds, pinned: Callable[[str], bool] | None = None) -> None:
        self._seconds = seconds
        self._pinned = pinned
        self.pins: set[tuple[str, str]] = set()
        """Models that stay where they are besides, each with its server."""

    @property
    def matters(self) -> bool:
        """Whether any model is kept."""
        return self._seconds.hold_max > 0 or self._pinned is not None or bool(self.pins)

    def change(self, pinned: Callable[[str], bool] | None) -> None:
        """Keep other models where they are from now on."""
        self._pinned = pinned

    def loadable(
        self,
        ask: Ask,
        ready: Sequence[Backend],
        room: Sequence[Backend],
        queued: Callable[[str], int],
        now: float,
    ) -> Sequence[Backend]:
        """Leave out servers that would have to unload what they keep for now.

        A model stays while it is in use, and then for the usual pause, but not longer than the
        patience of a request for another. Then one server takes no more requests for its own,
        and as soon as those have ended it is the place to load the other. What is `pinned` stays
        while there is any other server. `queued` tells how many requests wait for a model.
        """
        for backend in ready:
            memory = backend.memory
            if memory.next and now - memory.next_at > PROMISED:
                memory.keep()  # who asked for it waits no more
        names = ask.names
        swapping = [s for s in ready if _swaps(s, ask)]
        others = [s for s in room if s not in swapping]
        if others or len(swapping) < len(ready):
            return others
        for backend in swapping:
            if backend.memory.next in backend.offered(names):
                return self._once_quiet(backend, room, now)
        free = [s for s in swapping if not self._is_pinned(s, ask)] or swapping
        due = [s for s in free if now >= self._kept_until(s, ready, ask, queued, now)]
        best = min(due, key=lambda s: (s.ledger.total, s.memory.unused_since()), default=None)
        out = None if best is None else self._first_out(best, ask)
        if best is None or out is None:
            return []
        if self._seconds.looks:
            return [best]
        best.memory.make_way(out, best.offered(names)[0], now)
        return self._once_quiet(best, room, now)

    def _once_quiet(
        self, backend: Backend, room: Sequence[Backend], now: float
    ) -> Sequence[Backend]:
        """Return the server that is to load a model, once nobody uses the one that leaves."""
        if not self._seconds.looks:
            backend.memory.next_at = now
        if any(backend.ledger.on(name) for name in backend.memory.leaving):
            self._seconds.wait_until(now + YIELD)
            return []
        return [backend] if backend in room else []

    def _is_pinned(self, backend: Backend, ask: Ask) -> bool:
        """Whether all that a server could unload stays where it is."""
        if _again(backend, ask) is not None:
            return False
        return self._oldest(backend) is None and backend.memory.oldest() is not None

    def _first_out(self, backend: Backend, ask: Ask) -> str | None:
        again = _again(backend, ask)
        if again is not None:
            return again
        return self._oldest(backend) or backend.memory.oldest()

    def _oldest(self, backend: Backend) -> str | None:
        """Name what would leave a server for another model, and is not pinned."""
        server, pins, pinned = backend.server.name, self.pins, self._pinned
        return backend.memory.oldest(
            lambda name: (server, name) in pins or (pinned is not None and pinned(name))
        )

    def _kept_until(
        self,
        backend: Backend,
        ready: Sequence[Backend],
        ask: Ask,
        queued: Callable[[str], int],
        now: float,
    ) -> float:
        """Return until when a server keeps what it has in memory."""
        memory = backend.memory
        seconds, name = self._seconds, self._first_out(backend, ask)
        if name is None:  # what it has there is being loaded, or about to be
            seconds.wait_until(now + YIELD)
            return math.inf
        again = memory.load_seconds((name,))
        until = math.inf
        others = [s for s in ready if s is not backend]
        if any(s.readiness((name,)) is Readiness.READY for s in others) or not seconds.hold_max:
            until = now  # it is elsewhere, too
        elif not (backend.ledger.on(name) or queued(backend.model_of(name))):
            longest = min(seconds.hold_max, again)
            held = memory.used_at(name) + longest
            until = held if seconds.usual_pause() <= longest else now
        work = memory.load_seconds(backend.offered(ask.names)) + WRITING
        until = min(until, ask.since + seconds.patience(work))
        if now < until:
            seconds.wait_until(until)
        return until


def _swaps(backend: Backend, ask: Ask) -> bool:
    """Whether one model must leave for the one that is asked for, or be loaded again."""
    if backend.readiness(ask.names, ask.context) is not Readiness.SWAP:
        return False
    leaves = backend.memory.leaving.issuperset(backend.offered(ask.names)[:1])
    return backend.memory.swaps or leaves or _again(backend, ask) is not None


def _again(backend: Backend, ask: Ask) -> str | None:
    """Name the model if it is there, and must be loaded again for another context."""
    offered = backend.offered(ask.names)
    return offered[0] if backend.reloads(offered, ask.context) else None
