"""What is known of one server at this moment."""

import math
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from app.routing.ejection import Ejection
from app.routing.fleet import Server
from app.routing.health_window import HealthWindow, Side
from app.routing.instances import instances, model_of
from app.routing.ledger import Lease, Ledger
from app.routing.model_memory import MOST_INSTANCES, ModelMemory, Readiness, smoothed
from app.routing.observations import ONLY, SelfReport
from app.routing.prefix_index import PrefixIndex
from app.routing.prompt_cache import PromptCache, Slot
from app.routing.saved_prompts import SavedPrompts
from app.routing.sleep import Sleep

Status = Literal["idle", "busy", "loading", "draining", "invalid", "ejected", "asleep", "waking"]


class Change(NamedTuple):
    """The last change of a server's status."""

    status: Status
    reason: str
    at: float
    """In seconds."""


class Backend:
    """A server, what it report of itself, what is in flight there, and what its caches hold."""

    def __init__(
        self,
        server: Server,
        ledger: Ledger,
        window: HealthWindow,
        stale_after: float = 180.0,
        *,
        numbered: bool = True,
        saved_prompts: int = 0,
        index: PrefixIndex[Slot | PromptCache] | None = None,
    ) -> None:
        self.server = server
        self._index = PrefixIndex[Slot | PromptCache]() if index is None else index
        self.ledger = ledger
        ledger.hourly = server.requests_per_hour
        self.health = window
        self.ejection = Ejection()
        self.changed: Change | None = None
        """The last change of its status; None while it is as it was at the start."""
        self.faults: dict[Side, str] = {}
        """What went wrong at its last probes, by the side that was asked."""
        self.memory = ModelMemory()
        self.sleep = Sleep()
        self.saved = SavedPrompts(saved_prompts)
        self.completed_at = -math.inf
        """When it completed a request of ours last, in seconds."""
        self.service_seconds: float | None = None
        """How long a request takes, in seconds, as measured."""
        self._numbered = numbered
        self.models: frozenset[str] | None = None
        """The names in the server's model list; None while it is unknown."""
        self.facts: dict[str, Mapping[str, object]] = {}
        """What its list says of each model."""
        self.drained_by: set[str] = set()
        """Why it shall get no new requests."""
        self.self_report: SelfReport | None = None
        """What it report of itself last; None where it cannot tell, or is away."""
        self.prefill: float | None = None
        """How many tokens of a prompt it reads in a second, as measured."""
        self._reads_until = 0.0
        self.entered: Counter[Status] = Counter()
        """How often the server came into a state."""
        self._elsewhere: frozenset[int] = frozenset()
        self._unseen = False
        self._stale_after = stale_after
        self._prompt_caches: OrderedDict[str, PromptCache] = OrderedDict()
        self._contexts: dict[str, int] = {}
        self._asked_contexts: dict[str, int] = {}  # by the last request, by instance
        self._usual_contexts: dict[str, int] = {}  # where requests do not say
        self._offers: dict[tuple[str, ...], tuple[str, ...]] = {}

    def change(
        self,
        server: Server,
        limit: int | None,
        *,
        stale_after: float,
        numbered: bool,
        saved_prompts: int,
    ) -> None:
        """Take in what the settings say of it now; what is known of it stays."""
        if server.models != self.server.models:
            self.models = None
        self.server = server
        self.ledger.limit = limit
        self.ledger.weight = server.weight
        self.ledger.hourly = server.requests_per_hour
        self._stale_after = stale_after
        self._numbered = numbered
        self.saved.most = saved_prompts
        self._offers = {}

    # What it tells

    @property
    def status(self) -> Status:
        """One word for people and for the snapshot."""
        if self.draining:
            return "draining"
        if self.asleep:
            return "waking" if self.sleep.state == "waking" else "asleep"
        if self.health.healthy and self.ejection.ejected:
            return "ejected"
        return "loading" if self.loading and self.health.healthy else self.health.status

    @property
    def draining(self) -> bool:
        """Whether it shall get no new requests."""
        return bool(self.drained_by)

    @property
    def loading(self) -> bool:
        """Whether it loads its model, and would turn requests away."""
        return self.self_report is not None and self.self_report.loading

    @property
    def accepting(self) -> bool:
        """Whether it may get requests where it has room, or where that does not matter."""
        return not (self.draining or self.loading or self.asleep)

    @property
    def asleep(self) -> bool:
        """Whether it must be woken before it takes requests."""
        if not self.server.wakes or self.sleep.state == "failed":
            return False
        return self.health.down or self.sleep.state == "falling"

    @property
    def in_use(self) -> bool:
        """Whether anybody has work there, we or others, or it does not say so yet."""
        return bool(self.ledger.total) or bool(self.ledger.elsewhere) or self.status != "idle"

    @property
    def tells_slots(self) -> bool:
        """Whether it tells how many slots it has.

        Then it has one model, which all names mean, and reads prompts beside each other.
        """
        return self.self_report is not None and self.self_report.slots is not None

    @property
    def names_slots(self) -> bool:
        """Whether requests may say which slot is theirs.

        The server must tell which ones are free, and have report since a request of ours went
        to a slot that it was to find by itself.
        """
        report = self.self_report
        return (
            report is not None
            and report.kind.names_slots
            and report.busy_slots is not None
            and not self._unseen
        )

    @property
    def saves_slots(self) -> bool:
        """Whether it may save into files what its slots hold."""
        return self.self_report is not None and self.self_report.kind.saves_slots

    @property
    def asks_usage(self) -> bool:
        """Whether its streams must be asked for their usage."""
        return self.self_report is not None and self.self_report.kind.asks_usage

    def name_slot(self, slot: Slot | None) -> int | None:
        """Return by which number a request may ask for a slot; None: it goes to any."""
        if slot is not None and self.names_slots:
            return slot.number
        self._unseen = True
        return None

    def report(self, report: SelfReport) -> None:
        """Take in what the server tells of itself.

        What is at work there beyond what we sent belongs to somebody else. Slots that we used
        since the last report may be busy with that still, so they are given the benefit of it.
        """
        self._forget_others()
        self.self_report = report
        self._unseen = False
        if report.slots is not None:
            self._take_in_slots(report.slots)
        for instance, tokens in report.contexts.items():
            self.note_context(instance, tokens)
            if self._asked_contexts.get(instance) == 0:
                self._usual_contexts[instance] = tokens
        ours = self.ledger.recent()
        asked = self.memory.report(report, self.ledger.by_instance())
        if report.loaded is not None and asked is not None:
            self._forget_unloaded(report.loaded - report.asleep, asked, ours)
        if report.busy_slots is not None:
            slots = [
                slot for prompt_cache in self._prompt_caches.values() for slot in prompt_cache.slots
            ]
            touched = {slot.number for slot in slots if slot.busy or slot.touched}
            for slot in slots:
                slot.touched = False
            self._elsewhere = report.busy_slots - touched
            self.ledger.foreign = max(0, len(report.busy_slots) - max(ours, len(touched)))
        elif report.active is not None:
            self.ledger.foreign = max(0, report.active - ours)

    def went_away(self) -> None:
        """Note that nothing listens there: what it held and report is no more."""
        self.self_report = None
        self.memory.forget()
        self._contexts.clear()
        self._asked_contexts.clear()
        self._forget_others()
        self._forget_caches()
        self.saved.begin_anew()

    def look_at_sleep(self, now: float) -> None:
        """Note that it has fallen asleep, or woken."""
        if self.sleep.state == "falling":
            if self.health.down:
                self.sleep.state = "settled"
        elif self.sleep.state != "settled" and not self.health.down:
            self.sleep.end(now)

    def note_context(self, instance: str, tokens: int) -> None:
        """Note how many tokens the context of an instance has; the last ones are remembered."""
        if len(self._contexts) >= MOST_INSTANCES:
            self._contexts.clear()
        self._contexts[ONLY if self.tells_slots else instance] = tokens

    @property
    def least_context(self) -> int:
        """The shortest context that is known there, in tokens; 0 where none is."""
        return self.server.context or min(self._contexts.values(), default=0)

    def context_of(self, names: tuple[str, ...]) -> int | None:
        """Return how many tokens a prompt may have there at the most; None where that is unknown.

        What the settings say goes before what the server tells.
        """
        if self.server.context is not None:
            return self.server.context
        asked = (ONLY,) if self.tells_slots else self.offered(names)
        found = [self._contexts[name] for name in asked if name in self._contexts]
        return max(found) if len(found) == len(asked) else None

    def holds(self, names: tuple[str, ...], tokens: int) -> bool:
        """Whether a prompt may fit into its context, as far as that is known."""
        context = self.context_of(names)
        return context is None or context >= tokens

    def read_prompt(self, tokens: int, seconds: float) -> None:
        """Note how long it took to read so many tokens of a prompt."""
        self.prefill = smoothed(self.prefill, tokens / seconds)

    def reads(self, seconds: float | None, now: float) -> None:
        """Note for how many seconds it reads a prompt, after those that came before."""
        if seconds is not None and not self.tells_slots:
            self._reads_until = max(now, self._reads_until) + seconds

    def backlog(self, now: float) -> float:
        """Return how many seconds it is believed to read before it comes to a new prompt."""
        return max(0.0, self._reads_until - now)

    def complete(self, seconds: float, now: float) -> None:
        """Note that a request was completed, and how long it took."""
        self.completed_at = now
        self.service_seconds = smoothed(self.service_seconds, seconds)

    # Its caches

    def prompt_cache(self, instance: str, instances: int = 1) -> PromptCache:
        """Return the caches of an instance, one of so many of its model on this server."""
        if self.tells_slots:
            instance = ONLY
        found = self._prompt_caches.get(instance)
        return found or PromptCache(
            self._slots_of(instances),
            stale_after=self._stale_after,
            server=self.server.name,
            index=self._index,
            saved=self.saved,
        )

    def keep(self, instance: str, prompt_cache: PromptCache) -> None:
        """Follow the caches of an instance from now on: a request goes there.

        Clients make names up, so there is room for so many: the one unused for longest goes.
        """
        if self.tells_slots:
            instance = ONLY
        self._prompt_caches[instance] = prompt_cache
        self._prompt_caches.move_to_end(instance)
        if len(self._prompt_caches) > MOST_INSTANCES:
            _, unused = self._prompt_caches.popitem(last=False)
            unused.forget()

    def prompt_caches(self) -> Iterator[tuple[str, PromptCache]]:
        """Go through the caches by instance."""
        yield from self._prompt_caches.items()

    @property
    def elsewhere(self) -> Collection[int]:
        """The slots that are busy with requests that did not come through us."""
        return self._elsewhere

    def others_have(self, slots: Iterable[int]) -> None:
        """Note that other replicas have these slots, until it is known for what."""
        caches = self._prompt_caches.values()
        known = {slot.number for cache in caches for slot in cache.slots if slot.busy}
        self._elsewhere = self._elsewhere.union(set(slots) - known)

    def heard_of_use(self, instance: str, now: float) -> None:
        """Note that another replica has sent a request to an instance."""
        self.sleep.used_at = max(self.sleep.used_at, now)
        on = self.ledger.others_on
        on[instance] = on.get(instance, 0) + 1
        if self.self_report is not None and self.self_report.loaded is not None:
            self.memory.used(instance, max(now, self.memory.used_at(instance)))

    def heard_of_end(self, instance: str) -> None:
        """Note that it has ended."""
        on = self.ledger.others_on
        on[instance] = on.get(instance, 0) - 1
        if on[instance] <= 0:
            del on[instance]

    def heard_of(self, slot: int) -> None:
        """Note that it is known who has a slot."""
        self._elsewhere = self._elsewhere - {slot}

    def _forget_others(self) -> None:
        self._elsewhere = frozenset()
        self.ledger.foreign = 0

    def _forget_caches(self) -> None:
        for prompt_cache in self._prompt_caches.values():
            prompt_cache.forget()

    def _forget_unloaded(self, loaded: Collection[str], asked: Collection[str], ours: int) -> None:
        """Forget the caches of models that are in memory no more, and that nobody asks for."""
        if not loaded and not ours:
            self._forget_caches()  # it has unloaded all, or sleeps
            return
        gone = (self.models or frozenset()).difference(loaded, asked)
        for instance, prompt_cache in self._prompt_caches.items():
            if instance in gone:
                prompt_cache.forget()

    def _take_in_slots(self, count: int) -> None:
        """Make what was known of the one model, under whatever name, that of so many slots."""
        if self._prompt_caches:
            known = self._prompt_caches.get(ONLY) or next(reversed(self._prompt_caches.values()))
            known.resize(count)
            for prompt_cache in self._prompt_caches.values():
                if prompt_cache is not known:
                    prompt_cache.forget()
            self._prompt_caches = OrderedDict({ONLY: known})

    def _slots_of(self, instances: int) -> int | None:
        if self.self_report is not None and self.self_report.slots is not None:
            return self.self_report.slots
        limit = self.ledger.limit
        return None if limit is None else max(1, limit // instances)

    # Its models

    def list_models(self, models: Collection[str] | None) -> None:
        """Take in a model list; None says that the server has none to show."""
        listed = None if models is None else frozenset(models)
        if listed != self.models:
            self.models = listed
            self._offers = {}

    def take_in_facts(self, facts: Mapping[str, Mapping[str, object]]) -> None:
        """Take in what its list says of each model, vLLM's of its context as well."""
        self.facts = {
            name: told for there, told in facts.items() for name in self.server.names_here([there])
        }
        for name, told in self.facts.items():
            tokens = told.get("max_model_len")
            if isinstance(tokens, int) and tokens > 0:
                self.note_context(name, tokens)

    def listed(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """List the instances of the first of the names that the server has.

        Empty where it has none of them, or its list is unknown.
        """
        found = self._offers.get(names)
        if found is None:
            found = next((x for name in names if (x := self._instances(name))), ())
            # Clients make names up, so only what was found is worth remembering.
            if found:
                self._offers[names] = found
        return found

    def lacks(self, names: tuple[str, ...]) -> bool:
        """Whether the server is known not to have the model under any of its names."""
        if self.models is None:
            return self.server.listed_only
        return not self.listed(names)

    def offered(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """List the instances that may take a request for one of the names; never empty.

        A server whose list is unknown may know the model by its full name, one that lists none
        of the names by the shortest.
        """
        return self.listed(names) or (names[:1] if self.models is None else names[-1:])

    def served_name(self, names: tuple[str, ...]) -> str:
        """Pick the first of the names that the server lists, else as `offered` does."""
        if self.models is None:
            return names[0]
        return next((name for name in names if self._instances(name)), names[-1])

    def model_of(self, name: str) -> str:
        """Name the model that a listed name is an instance of here."""
        return model_of(name, self.models or (), numbered=self._numbered)

    def _instances(self, name: str) -> tuple[str, ...]:
        return instances(name, self.models or (), numbered=self._numbered)

    # What it has in memory

    def readiness(self, names: tuple[str, ...], context: int = 0) -> Readiness:
        """Return how far the server is from having the model in memory, with such a context."""
        report = self.self_report
        if report is None or report.loaded is None:
            return Readiness.READY
        offered = self.offered(names)
        if self.tells_slots and not report.loaded:
            return Readiness.ASLEEP
        found = self.memory.readiness(offered)
        if found <= Readiness.LOADING and self.reloads(offered, context):
            return Readiness.SWAP
        asleep = found is Readiness.READY and report.asleep.issuperset(offered)
        return Readiness.ASLEEP if asleep else found

    def must_load(self, names: tuple[str, ...], context: int = 0) -> bool:
        """Whether it is known to hold the model neither in memory nor on its way there."""
        return self.readiness(names, context) >= Readiness.ROOM

    def reloads(self, instances: tuple[str, ...], context: int) -> bool:
        """Whether it has the model, or loads it, and must load it again for such a context.

        A context of 0 is what the server takes where requests do not say.
        """
        if not self._asked_contexts:
            return False
        instance = instances[0]
        wanted = context or self._usual_contexts.get(instance, 0)
        return bool(wanted) and self._contexts.get(instance, wanted) != wanted

    def load_seconds(self, names: tuple[str, ...]) -> float:
        """How long the load of a model takes, in seconds, as measured."""
        return self.memory.load_seconds(self.offered(names))

    def load_left(self, names: tuple[str, ...], now: float) -> float:
        """Return in how many seconds a model that is being loaded will be in memory."""
        begun = self.memory.begun(self.offered(names), now)
        return max(0.0, self.load_seconds(names) - (now - begun))

    def note(self, instance: str, now: float, context: int = 0) -> None:
        """Note that a request goes to an instance, which is loaded for it if need be."""
        report = self.self_report
        if report is None or report.loaded is None:
            return
        self.memory.note(instance, now)
        if report.kind.reloads:
            if len(self._asked_contexts) >= MOST_INSTANCES:
                self._asked_contexts.clear()
            self._asked_contexts[instance] = context
            if context:
                self.note_context(instance, context)

    def note_end(self, lease: Lease, now: float) -> None:
        """Note that a request has ended, and for how long it waited for its model."""
        if not self.ledger.total:
            self._reads_until = 0.0
        if self.self_report is not None and self.self_report.loaded is not None:
            self.memory.used(lease.instance, now)
            if lease.succeeded:
                first_token = None if lease.reuse is None else lease.reuse.seconds
                until = now if first_token is None else lease.since + first_token
                lease.load = self.memory.loading(lease.instance, lease.since, until)

    @property
    def place_seconds(self) -> float:
        """How long it takes until one of its places becomes free, in seconds, as measured."""
        return (self.service_seconds or 0.0) / (self.ledger.limit or 1)

    def expected_wait(self, now: float, ahead: int, names: tuple[str, ...]) -> float:
        """Estimate, in seconds, how long a request waits here for a place, behind `ahead` others.

        A request that takes longer than most may take as long again.
        """
        service = self.service_seconds or 0.0
        ages = (now - lease.since for lease in self.ledger.leases())
        first = min((service - age if age < service else age for age in ages), default=0.0)
        wait = first + ahead * service / (self.ledger.limit or 1)
        if self.readiness(names) is Readiness.LOADING:
            wait += self.load_left(names, now)
        return wait
