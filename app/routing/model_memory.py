"""Which models a server has in memory, as far as it tells, and how long each takes to load."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Final

from app.routing.observations import SelfReport

MOST_INSTANCES: Final = 200
"""Instances of models of which something is remembered, at one server."""

SMOOTHING: Final = 0.2
"""How much the newest measurement of a speed counts."""

GUESSED_LOAD: Final = 10.0
"""Seconds that the load of a model is believed to take before one was seen."""


class Readiness(IntEnum):
    """How far a server is from having a model in memory, the best first."""

    READY = 0
    """It is there, or nobody can tell."""
    LOADING = 1
    """It is being loaded."""
    ASLEEP = 2
    """It sleeps, and wakes by itself in the place that it has."""
    ROOM = 3
    """It must be loaded, and nothing must be unloaded for it."""
    SWAP = 4
    """Another must be unloaded for it."""


class ModelMemory:
    """What is in memory, on its way there, and on its way out, at one server.

    `swaps` says that the server has shown how many models fit: one had to leave for another.
    """

    def __init__(self) -> None:
        self.swaps = False
        self.leaving: set[str] = set()
        """Those in memory that make room for another which was asked for."""
        self.next = ""
        """The one for which they do, until it is asked for."""
        self.next_at = 0.0
        """When that was said last, in seconds."""
        self._staying: set[str] = set()
        """Those that others have left for, though they were not used for longer."""
        self._loaded: frozenset[str] = frozenset()
        self._starting: frozenset[str] = frozenset()
        self._asked: set[str] = set()
        self._used: OrderedDict[str, float] = OrderedDict()
        self._loads: dict[str, float] = {}  # since when
        self._last_loads: dict[str, tuple[float, float]] = {}  # from when until when
        self._most = 1
        self._seconds: float | None = None
        self._seconds_of: dict[str, float] = {}

    def report(self, report: SelfReport, at_work: Collection[str]) -> Collection[str] | None:
        """Take in what the server tells; `at_work` names what our requests are at.

        Returns:
            what was asked for before, or is at work; None where the server does not tell.
        """
        loaded = report.loaded
        if loaded is None:
            return None
        asked, self._asked = self._asked, set(at_work)
        if report.asked_at:  # what was used after the question may have been loaded after it
            used = {name for name in asked if self.used_at(name) > report.asked_at}
            loaded |= used - self._asked - report.starting
        gone = self._loaded - loaded
        if gone and (report.starting or loaded - self._loaded) and len(loaded) <= self._most:
            self.swaps = True
            last = max(self.used_at(name) for name in gone)
            self._staying |= {x for x in loaded & self._loaded if self.used_at(x) < last}
        self._staying -= gone
        self.swaps = self.swaps or report.kind.swaps
        self._loaded, self._starting = loaded, report.starting
        self._most = max(self._most, len(loaded))
        self._note_loads(report.asked_at)
        self.leaving &= loaded
        if not self.next and not (self._asked | report.starting) - loaded:
            self.leaving.clear()  # all that was asked for is there: there was room
        return asked | self._asked

    def forget(self) -> None:
        """Note that the server went away: what was in memory is no more."""
        self._loaded = self._starting = frozenset()
        self._asked.clear()
        self._loads.clear()
        self._staying.clear()
        self.leaving.clear()
        self.next = ""

    def note(self, instance: str, now: float) -> None:
        """Note that a request goes to an instance, which is loaded for it if need be."""
        if instance not in self._loaded or instance in self.leaving:
            self.leaving.discard(instance)
            self.next = ""
            if len(self._loads) < MOST_INSTANCES:
                self._loads.setdefault(instance, now)
        self._asked.add(instance)
        self.used(instance, now)

    def used(self, instance: str, now: float) -> None:
        """Note when an instance was used last."""
        self._used[instance] = now
        self._used.move_to_end(instance)
        if len(self._used) > MOST_INSTANCES:
            self._used.popitem(last=False)

    def readiness(self, instances: Sequence[str]) -> Readiness:
        """Return how far it is from having one of the instances of a model in memory."""
        names = instances
        if self.leaving:
            names = [name for name in instances if name not in self.leaving]
        if not self._loaded.isdisjoint(names):
            return Readiness.READY
        if not (self._asked.isdisjoint(names) and self._starting.isdisjoint(names)):
            return Readiness.LOADING
        held = (self._loaded | self._asked) - self.leaving | self._starting
        coming = self.next != "" and self.next not in held
        return Readiness.ROOM if len(held) + coming < self._most else Readiness.SWAP

    def oldest(self, stays: Callable[[str], bool] | None = None) -> str | None:
        """Name what would leave for another, as it was not used for longest."""
        there = [
            name
            for name in self._loaded
            if name not in self.leaving and not (stays is not None and stays(name))
        ]
        moving = [name for name in there if name not in self._staying]
        return min(moving or there, key=self.used_at, default=None)

    def used_at(self, instance: str) -> float:
        """Return when an instance was used last, in seconds; 0 for never."""
        return self._used.get(instance, 0.0)

    def unused_since(self) -> float:
        """Return when the model was used last that would have to go for another."""
        oldest = self.oldest()
        return 0.0 if oldest is None else self.used_at(oldest)

    def make_way(self, out: str, instance: str, now: float) -> None:
        """Give one no more requests, so that another is loaded once those at work have ended."""
        self.leaving.add(out)
        self.next, self.next_at = instance, now

    def keep(self) -> None:
        """Go on with what is in memory: what was next is not asked for any more."""
        self.leaving.clear()
        self.next = ""

    def load_seconds(self, instances: Iterable[str] = ()) -> float:
        """Return how long a model takes to load, in seconds: as measured, else as others do."""
        for name in instances:
            if name in self._seconds_of:
                return self._seconds_of[name]
        return GUESSED_LOAD if self._seconds is None else self._seconds

    @property
    def load_times(self) -> Mapping[str, float]:
        """How long each instance takes to load, in seconds, as measured."""
        return self._seconds_of

    def hear_of_load(self, instance: str, seconds: float) -> None:
        """Take in how long a load takes, as another replica has measured."""
        if len(self._seconds_of) < MOST_INSTANCES or instance in self._seconds_of:
            self._seconds_of[instance] = seconds

    def begun(self, instances: Iterable[str], now: float) -> float:
        """Return since when a model is being loaded, in seconds."""
        return min((self._loads.get(name, now) for name in instances), default=now)

    def loading(self, instance: str, since: float, until: float) -> float:
        """Return how many seconds a request waited for an instance to be loaded.

        A load that is not seen to be over yet has taken as long as usual, and ended with the
        request's first token at the latest.
        """
        begun, ended = self._last_loads.get(instance, (0.0, 0.0))
        if self._loads.get(instance, begun) != begun:
            begun = self._loads[instance]
            ended = min(until, begun + self.load_seconds((instance,)))
            self._note_load(instance, begun, ended)
        return max(0.0, min(until, ended) - max(since, begun))

    def _note_loads(self, now: float) -> None:
        """Measure how long loads took; one that nobody waits for any more is forgotten."""
        for instance, begun in list(self._loads.items()):
            if instance in self._loaded and instance not in self.leaving:
                took = max(0.0, now - begun)
                self._seconds = smoothed(self._seconds, took)
                if len(self._seconds_of) >= MOST_INSTANCES:
                    self._seconds_of.clear()
                self._note_load(instance, begun, now)
                self._seconds_of[instance] = smoothed(self._seconds_of.get(instance), took)
            elif instance in self._asked:
                continue
            del self._loads[instance]

    def _note_load(self, instance: str, begun: float, ended: float) -> None:
        if len(self._last_loads) >= MOST_INSTANCES:
            self._last_loads.clear()
        self._last_loads[instance] = begun, ended


def smoothed(before: float | None, new: float) -> float:
    """Let the newest measurement count for a part."""
    return new if before is None else before + SMOOTHING * (new - before)
