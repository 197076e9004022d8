"""Which server and instance take a request: the rule, and nothing else."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

from app.routing.fleet import Server
from app.routing.ledger import Ledger
from app.routing.sticky import Pin
from app.routing.window import Status, Window

Reason = Literal[
    "sticky", "free_instance", "idle", "least_loaded", "fallback", "last_resort", "overflow"
]


class Ask(NamedTuple):
    """What a request wants.

    `names` are the names that a server may know the model by, the preferred one first: all
    of them mean the `model` that was asked for. `client` is who asks: the user's name where
    it is known, else the `address`.
    """

    model: str
    names: tuple[str, ...]
    client: str
    address: str


class Choice(NamedTuple):
    """Where a request goes, and why."""

    server: str
    instance: str
    reason: Reason


class Standing:
    """What is known of one server at this moment."""

    __slots__ = ("_offers", "entered", "ledger", "models", "server", "window")

    def __init__(self, server: Server, ledger: Ledger, window: Window) -> None:
        self.server = server
        self.ledger = ledger
        self.window = window
        self.models: frozenset[str] | None = None
        """The names in the server's model list; None while it is unknown."""
        self.entered: Counter[Status] = Counter()
        """How often the server came into a state."""
        self._offers: dict[tuple[str, ...], tuple[str, ...]] = {}

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
        first = (name,) if name in (self.models or ()) else ()
        return first + tuple(model for _, model in numbered)


def choose(ask: Ask, candidates: Sequence[Standing], pin: Pin | None) -> Choice | None:
    """Pick a server and instance for a request; None when all that may take it are full.

    Where the client's last request went, if a request may go there; else, in the order of the
    candidates, a server with a free instance; an idle server; the least loaded one. Servers
    that are known not to have the model, or that are invalid, are out unless there is no
    other; a full server never gets one more.
    """
    if pin is not None and (choice := _where_it_was(pin, ask, candidates)):
        return choice
    able = [s for s in candidates if not s.lacks(ask.names)] or candidates
    valid = [s for s in able if s.window.valid]
    room = [s for s in valid or able if not s.ledger.full]
    if not room:
        return None
    if not valid:
        return _least_busy(room[0], ask, "last_resort")
    return (
        _free_instance(ask, room)
        or next((_least_busy(s, ask, "idle") for s in room if s.window.idle), None)
        or _least_busy(min(room, key=lambda s: s.ledger.load), ask, "least_loaded")
    )


def _where_it_was(pin: Pin, ask: Ask, candidates: Sequence[Standing]) -> Choice | None:
    for s in candidates:
        if (
            s.server.name == pin.server
            and s.window.valid
            and not s.ledger.full
            and not s.lacks(ask.names)
            and pin.instance in s.offered(ask.names)
        ):
            return Choice(pin.server, pin.instance, "sticky")
    return None


def _free_instance(ask: Ask, room: Sequence[Standing]) -> Choice | None:
    for standing in room:
        for instance in standing.offered(ask.names):
            if not standing.ledger.on(instance):
                return Choice(standing.server.name, instance, "free_instance")
    return None


def _least_busy(standing: Standing, ask: Ask, reason: Reason) -> Choice:
    instance = min(standing.offered(ask.names), key=standing.ledger.on)
    return Choice(standing.server.name, instance, reason)
