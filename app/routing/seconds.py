"""What a place costs, in seconds: who asks must read, and who comes back must read again.

Where conversations outnumber slots, a slot that goes to whoever waited longest is a prompt that
is read again each time. So a slot that a conversation has just left may be held for it, while
that is cheaper than what its eviction costs; and a request may wait for the server that has its
prompt, while that is sooner than reading it elsewhere. Both have bounds.
"""

import math
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

from app.routing.backend import Backend
from app.routing.choice import Ask, Choice, choice_of, effort_to_load
from app.routing.costs import Tally, reading, unread
from app.routing.ledger import Considered
from app.routing.prompt import Prompt
from app.routing.prompt_cache import Match, Placement, PromptCache, Slot

GUESSED_PAUSE: Final = 15.0
"""Seconds between a response and the next request of its conversation, until some were seen."""

PAUSES: Final = 200
"""Over how many pauses the usual one is taken."""

NEGLIGIBLE: Final = 1.0
"""Seconds of reading for which no place is held."""

TURN: Final = 3.0
"""A conversation keeps its place for so many times the reading of its prompt."""

LEAST_TURN: Final = 20.0
"""At least so many seconds."""

YIELD: Final = 1.0
"""Seconds after which a conversation that had its turn looks whether others took its place."""

STRETCH: Final = 3.0
"""A request waits beside held places for so many times its own work at the most."""

MOST_TOLD: Final = 5
"""Of so many servers it is told what a place there would have cost."""

WRITING: Final = 3.0
"""Seconds that it takes to write a response to a client of whom none was seen."""

MOST_CLIENTS: Final = 1000
"""Clients of whom it is remembered how long their responses take."""

LEAST_PATIENCE: Final = 10.0
"""At least so many seconds."""


class Place(NamedTuple):
    """A place that a request could have."""

    backend: Backend
    instance: str
    placement: Placement
    unread: float
    """Seconds to read what is in no cache there, and what others have read before it."""
    cost: float
    """Seconds that it costs those who come back."""


class Seconds:
    """Weighs places in seconds.

    `hold_max` bounds how long a place is held, 0 for never; `wait_max` how long a request waits
    beside one. Both are in seconds.
    """

    def __init__(self, hold_max: float, wait_max: float = math.inf) -> None:
        self.change(hold_max, wait_max)
        self.again_at = math.inf
        """When it may be worth to look again, on the monotonic clock."""
        self.held = False
        """Whether the last decision was to wait beside a free place."""
        self.looks = False
        """Whether nothing comes of a decision."""
        self.tally = Tally()
        self._pauses: deque[float] = deque(maxlen=PAUSES)
        self._usual: float | None = None
        self._writing: dict[str, float] = {}  # seconds, by client

    def change(self, hold_max: float, wait_max: float) -> None:
        """Weigh by other bounds from now on."""
        self.hold_max, self.wait_max = hold_max, wait_max

    def note_pause(self, seconds: float) -> None:
        """Take in how long a conversation has paused."""
        self._pauses.append(seconds)
        self._usual = None

    def note_writing(self, holder: str, seconds: float) -> None:
        """Take in how long it took to write a response to a client."""
        before = self._writing.get(holder)
        if before is None and len(self._writing) >= MOST_CLIENTS:
            self._writing.clear()
        self._writing[holder] = seconds if before is None else (3 * before + seconds) / 4

    def applies(self, room: Sequence[Backend]) -> bool:
        """Whether enough is known of the servers: their slots, and how fast they read."""
        if not self.hold_max:
            return False
        for backend in room:
            report = backend.self_report
            if backend.prefill is None or report is None:
                return False
            if report.slots is None and report.active is None:
                return False
        return True

    def turn_is_over(self, slot: Slot, backend: Backend, ask: Ask, now: float) -> bool:
        """Whether the conversation in a slot had its turn."""
        return now >= self._turn_end(slot, backend, ask)

    def decide(
        self,
        ask: Ask,
        prompt: Prompt,
        room: Sequence[Backend],
        home: Backend | None,
        waiting: int,
        servers: int,
        now: float,
    ) -> Choice | None:
        """Pick the place that costs the least; None where it is better to wait.

        `home` is the server that holds the prompt; `waiting` counts the others that wait, for
        any of so many `servers`.
        """
        self.held = False
        places = self._places(ask, prompt, room, waiting, now)
        if not places:
            if not self.held:
                self.wait_until(now + YIELD)
            return None
        tier = min(place.backend.server.tier for place in places)
        best = min(places, key=lambda place: _rank(place, ask, tier))
        away = home is not None and best.backend is not home
        if home is not None and away and (home.ledger.full or best.placement.slot is not None):
            wait = home.place_seconds * (1 + waiting // servers)
            longest = ask.since + min(best.unread, self.wait_max)
            if best.unread > wait and now < longest:
                self.wait_until(longest)
                return None
        choice = choice_of(best.backend, best.instance, best.placement)
        choice.considered = _considered(places)
        return choice

    def patience(self, work: float) -> float:
        """Return how many seconds a request waits at the most beside what is held."""
        return min(self.wait_max, max(LEAST_PATIENCE, STRETCH * work))

    def _places(
        self, ask: Ask, prompt: Prompt, room: Sequence[Backend], waiting: int, now: float
    ) -> list[Place]:
        found: list[Place] = []
        caches = _caches(room, ask)
        crowded = waiting >= sum(len(free) for _, _, _, free in caches)
        for backend, instance, cache, free in caches:
            placement = cache.placement(prompt, now, backend.elsewhere)
            if placement is None:
                continue
            work = reading(unread(prompt, placement), backend, ask)
            slot = placement.slot
            if slot is None:  # it reads one after another: others wait meanwhile
                first = work + backend.backlog(now)
                lost = cache.pushed_out(prompt.size, now, placement.continued)
                others = backend.ledger.total + backend.ledger.foreign
                cost = others * work + reading(lost, backend, ask)
                found.append(Place(backend, instance, placement, first, cost))
                continue
            if placement.match is Match.CONTINUES:
                wanted = waiting and crowded
                if not (wanted and self.turn_is_over(slot, backend, ask, now)):
                    found.append(Place(backend, instance, placement, work, 0.0))
                continue
            if placement.match is Match.CHANGED:
                found.append(Place(backend, instance, placement, work, 0.0))
                continue
            for other in free:
                drops = other.drops_for(prompt)
                if drops and placement.match is Match.REMEMBERED:
                    continue  # it would not be looked for
                lost = cache.lost_by_evicting(other, now, placement.continued, kept=not drops)
                cost = backend.saved.cost(lost, reading(lost, backend, ask), now)
                if cost > NEGLIGIBLE and self._is_held(other, backend, ask, cost, work, now):
                    continue
                there = placement if other is slot else placement.at(other, now)
                found.append(Place(backend, instance, there, work, cost))
        return found

    def _is_held(
        self, slot: Slot, backend: Backend, ask: Ask, cost: float, work: float, now: float
    ) -> bool:
        """Whether a slot stays empty for the conversation that has just left it."""
        longest = min(self.hold_max, cost)
        pause = median(slot.pauses) if slot.pauses else self.usual_pause()
        if pause > longest:
            return False
        work += self._writing.get(ask.holder, WRITING)
        patience = ask.since + self.patience(work)
        until = min(slot.used_at + longest, self._turn_end(slot, backend, ask), patience)
        if now >= until:
            return False
        self.wait_until(until)
        if not self.looks:
            slot.held_for = cost
        return True

    def usual_pause(self) -> float:
        """Return how long conversations pause, in seconds: half of them for less."""
        if self._usual is None:
            self._usual = median(self._pauses) if self._pauses else GUESSED_PAUSE
        return self._usual

    def _turn_end(self, slot: Slot, backend: Backend, ask: Ask) -> float:
        size = 0 if slot.prompt is None else slot.prompt.size
        return slot.turn_since + max(LEAST_TURN, TURN * reading(size, backend, ask))

    def wait_until(self, at: float) -> None:
        """Have a request wait beside a free place, and look again at that time."""
        self.held = True
        self.again_at = min(self.again_at, at)


def _caches(
    room: Sequence[Backend], ask: Ask
) -> list[tuple[Backend, str, PromptCache, list[Slot]]]:
    """List the caches of all instances that may take a request, each with its free slots."""
    found = []
    for backend in room:
        instances = backend.offered(ask.names)
        for instance in instances:
            cache = backend.prompt_cache(instance, len(instances))
            found.append((backend, instance, cache, cache.free(backend.elsewhere)))
    return found


def _considered(places: Sequence[Place]) -> list[Considered]:
    """Tell what each server's best place costs, of the cheapest servers."""
    best: dict[str, Place] = {}
    for place in sorted(places, key=lambda place: place.unread + place.cost):
        best.setdefault(place.backend.server.name, place)
    return [Considered(name, p.unread, p.cost) for name, p in [*best.items()][:MOST_TOLD]]


def _rank(place: Place, ask: Ask, tier: int) -> tuple[float, ...]:
    backend, slot = place.backend, place.placement.slot
    cached = place.placement.match <= Match.REMEMBERED
    return (
        0 if cached else backend.server.tier - tier,
        *((0, 0.0) if cached else effort_to_load(backend, ask)),
        place.unread + place.cost,
        place.placement.match,
        place.unread,
        backend.ledger.load,
        not backend.health.idle,
        0.0 if slot is None else slot.used_at,
    )
