"""What is known of one server at this moment."""

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator
from typing import Literal

from app.routing.fleet import Server, spelt
from app.routing.ledger import Ledger
from app.routing.news import Report
from app.routing.residency import Residency, Slot
from app.routing.window import Window

Status = Literal["idle", "busy", "loading", "draining", "invalid"]

MOST_INSTANCES = 200
"""Instances of models whose caches are followed, at one server."""

ONE_MODEL = ""
"""Stands for every name of the model of a server that tells of slots: it has but one."""

SMOOTHING = 0.2
"""How much the newest measurement of a speed counts."""


class Standing:
    """A server, what it told of itself, what is in flight there, and what its caches hold."""

    def __init__(
        self, server: Server, ledger: Ledger, window: Window, stale_after: float = 180.0
    ) -> None:
        self.server = server
        self.ledger = ledger
        self.window = window
        self.models: frozenset[str] | None = None
        """The names in the server's model list; None while it is unknown."""
        self.draining = False
        """It shall get no new requests."""
        self.told: Report | None = None
        """What it told of itself last; None where it cannot tell, or is away."""
        self.prefill: float | None = None
        """How many tokens of a prompt it reads in a second, as measured."""
        self.entered: Counter[Status] = Counter()
        """How often the server came into a state."""
        self._elsewhere: frozenset[int] = frozenset()
        self._unseen = False
        self._asked: set[str] = set()
        self._stale_after = stale_after
        self._residencies: OrderedDict[str, Residency] = OrderedDict()
        self._offers: dict[tuple[str, ...], tuple[str, ...]] = {}

    # What it tells

    @property
    def status(self) -> Status:
        """One word for people and for the snapshot."""
        if self.draining:
            return "draining"
        return "loading" if self.loading and self.window.valid else self.window.status

    @property
    def loading(self) -> bool:
        """Whether it loads its model, and would turn requests away."""
        return self.told is not None and self.told.loading

    @property
    def willing(self) -> bool:
        """Whether it may get requests where it has room, or where that does not matter."""
        return not self.draining and not self.loading

    @property
    def open(self) -> bool:
        """Whether it may get one more request."""
        return self.willing and not self.ledger.full

    @property
    def names_slots(self) -> bool:
        """Whether requests may say which slot is theirs.

        The server must tell which ones are free, and have told since a request of ours went
        to a slot that it was to find by itself.
        """
        told = self.told
        return (
            told is not None
            and told.kind == "llamacpp"
            and told.busy_slots is not None
            and not self._unseen
        )

    def name_slot(self, slot: Slot | None) -> int | None:
        """Tell by which number a request may ask for a slot; None: it goes to any."""
        if slot is not None and self.names_slots:
            return slot.number
        self._unseen = True
        return None

    def report(self, told: Report) -> None:
        """Take in what the server tells of itself.

        What is at work there beyond what we sent belongs to somebody else. Slots that we used
        since the last report may be busy with that still, so they are given the benefit of it.
        """
        self._forget_others()
        self.told = told
        self._unseen = False
        if told.slots is not None:
            self._take_in_slots(told.slots)
        ours = self.ledger.recent()
        if told.loaded is not None:
            self._forget_unloaded(told.loaded, ours)
        if told.busy_slots is not None:
            slots = [slot for residency in self._residencies.values() for slot in residency.slots]
            touched = {slot.number for slot in slots if slot.busy or slot.touched}
            for slot in slots:
                slot.touched = False
            self._elsewhere = told.busy_slots - touched
            self.ledger.foreign = max(0, len(told.busy_slots) - max(ours, len(touched)))
        elif told.active is not None:
            self.ledger.foreign = max(0, told.active - ours)

    def went_away(self) -> None:
        """Note that nothing listens there: what it held and told is no more."""
        self.told = None
        self._asked.clear()
        self._forget_others()
        self._forget_caches()

    def read_prompt(self, tokens: int, seconds: float) -> None:
        """Note how long it took to read so many tokens of a prompt."""
        speed = tokens / seconds
        before = self.prefill
        self.prefill = speed if before is None else before + SMOOTHING * (speed - before)

    # Its caches

    def residency(self, instance: str, instances: int = 1) -> Residency:
        """Give the caches of an instance, one of so many of its model on this server."""
        if self._one_model:
            instance = ONE_MODEL
        found = self._residencies.get(instance)
        return found or Residency(self._slots_of(instances), stale_after=self._stale_after)

    def keep(self, instance: str, residency: Residency) -> None:
        """Follow the caches of an instance from now on: a request goes there.

        Clients make names up, so there is room for so many: the one unused for longest goes.
        """
        if self._one_model:
            instance = ONE_MODEL
        self._residencies[instance] = residency
        self._residencies.move_to_end(instance)
        if len(self._residencies) > MOST_INSTANCES:
            self._residencies.popitem(last=False)

    def residencies(self) -> Iterator[tuple[str, Residency]]:
        """Go through the caches by instance."""
        yield from self._residencies.items()

    @property
    def elsewhere(self) -> Collection[int]:
        """The slots that are busy with requests that did not come through us."""
        return self._elsewhere

    def _forget_others(self) -> None:
        self._elsewhere = frozenset()
        self.ledger.foreign = 0

    def _forget_caches(self) -> None:
        for residency in self._residencies.values():
            residency.forget()

    def _forget_unloaded(self, loaded: Collection[str], ours: int) -> None:
        """Forget the caches of models that are in memory no more, and that nobody asks for."""
        asked, self._asked = self._asked, set(self.ledger.by_instance())
        if not loaded and not ours:
            self._forget_caches()  # it has unloaded all, or sleeps
            return
        gone = (self.models or frozenset()).difference(loaded, asked, self._asked)
        for instance, residency in self._residencies.items():
            if instance in gone:
                residency.forget()

    def _take_in_slots(self, count: int) -> None:
        """Make what was known of the one model, under whatever name, that of so many slots."""
        if self._residencies:
            known = self._residencies.get(ONE_MODEL) or next(reversed(self._residencies.values()))
            known.resize(count)
            self._residencies = OrderedDict({ONE_MODEL: known})

    @property
    def _one_model(self) -> bool:
        """Whether all names mean the same model: a server that tells of slots has but one."""
        return self.told is not None and self.told.slots is not None

    def _slots_of(self, instances: int) -> int | None:
        if self.told is not None and self.told.slots is not None:
            return self.told.slots
        limit = self.ledger.limit
        return None if limit is None else max(1, limit // instances)

    # Its models

    def list_models(self, models: Collection[str] | None) -> None:
        """Take in a model list; None says that the server has none to show."""
        listed = None if models is None else frozenset(models)
        if listed != self.models:
            self.models = listed
            self._offers = {}

    def listed(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """List `name`, `name-2`, `name-3`, … for the first of the names that the server has.

        Empty where it has none of them, or its list is unknown.
        """
        found = self._offers.get(names)
        if found is None:
            found = next((x for name in names if (x := self._numbered(name))), ())
            # Clients make names up, so only what was found is worth remembering.
            if found:
                self._offers[names] = found
        return found

    def lacks(self, names: tuple[str, ...]) -> bool:
        """Whether the server is known not to have the model under any of its names."""
        return self.models is not None and not self.listed(names)

    def in_memory(self, names: tuple[str, ...]) -> bool | None:
        """Whether it holds one of these, or loads one for us already; None where it cannot tell."""
        told = self.told
        if told is None or told.loaded is None:
            return None
        offered = self.offered(names)
        return not (told.loaded.isdisjoint(offered) and self._asked.isdisjoint(offered))

    def must_load(self, names: tuple[str, ...]) -> bool:
        """Whether it is known to hold none of these in memory."""
        return self.in_memory(names) is False

    def note(self, instance: str) -> None:
        """Note that a request goes to an instance, which is loaded for it if need be."""
        if self.told is not None and self.told.loaded is not None:
            self._asked.add(instance)

    def offered(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """List the instances that may take a request for one of the names; never empty."""
        return self.listed(names) or names[-1:]

    def served_name(self, names: tuple[str, ...]) -> str:
        """Pick the first of the names of which the server lists an instance, else the last."""
        return next((name for name in names if self._numbered(name)), names[-1])

    def _numbered(self, name: str) -> tuple[str, ...]:
        prefix = name + "-"
        numbered = sorted(
            (int(number), model)
            for model in self.models or ()
            if model.startswith(prefix)
            and (number := model[len(prefix) :]).isascii()
            and number.isdecimal()
            and len(number) < 10
        )
        first = spelt(name, self.models or ())
        return (() if first is None else (first,)) + tuple(model for _, model in numbered)
