"""More models than memory: requests for the loaded one are served before another is loaded."""

import pytest

from app.routing.balancer import Balancer, Refusal
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.ledger import Lease
from app.routing.model_memory import GUESSED_LOAD
from app.routing.observations import ModelsSeen, SelfReport
from app.routing.seconds import STRETCH, WRITING
from tests.fakes.clock import Clock
from tests.fakes.kinds import LLAMA_SWAP, OLLAMA

MODELS = ["m-a", "m-b", "m-c"]

PATIENCE = STRETCH * (GUESSED_LOAD + WRITING)
"""Seconds that a request waits at the most for the others to be done."""


class House:
    """Servers that have room for one model each; the first ones are loaded."""

    def __init__(self, servers: int = 1, kind: object = LLAMA_SWAP, **rules: object) -> None:
        self.clock = Clock()
        self.kind = kind
        names = [f"PC{number}" for number in range(1, servers + 1)]
        known = [Server(name, f"http://{name}", request_max=4) for name in names]
        rules = {"hold_max": 30.0, **rules}
        self.balancer = Balancer(Fleet.of(known, {".*": names}), clock=self.clock, **rules)  # type: ignore[arg-type]
        for name, model in zip(names, MODELS, strict=False):
            self.balancer.observe(ModelsSeen(name, MODELS))
            self.shows(name, model)

    def shows(self, server: str, *loaded: str, **more: object) -> None:
        report = SelfReport(
            server,
            self.kind,  # type: ignore[arg-type]
            loaded=frozenset(loaded),
            asked_at=self.clock.now,
            **more,  # type: ignore[arg-type]
        )
        self.balancer.observe(report)

    def ask(self, model: str, client: str = "alice") -> Ask:
        return Ask(model, (model,), client, client)

    def outwait(self, model: str, other: str) -> tuple[Lease, Ask]:
        """Have a model at work until the patience of a request for another has ended."""
        lease, waiting = self.place(model), self.ask(other, "bob")
        self.balancer.place(waiting)
        self.clock.tick(PATIENCE)
        return lease, waiting

    def place(self, model: str, client: str = "alice") -> Lease:
        lease = self.balancer.place(self.ask(model, client))
        assert isinstance(lease, Lease), lease
        return lease


def test_a_request_for_another_model_waits_while_the_loaded_one_is_in_use() -> None:
    house = House()
    house.place("m-a")

    assert house.balancer.place(house.ask("m-b", "bob")) is Refusal.HELD
    assert isinstance(house.balancer.place(house.ask("m-a", "carol")), Lease)


def test_it_waits_while_others_wait_for_the_loaded_one() -> None:
    house = House()
    house.place("m-a").release()
    house.clock.tick(60)
    house.balancer.queued = lambda model: int(model == "m-a")

    assert house.balancer.place(house.ask("m-b", "bob")) is Refusal.HELD


def test_once_its_patience_has_ended_the_loaded_one_gets_nothing_more() -> None:
    house = House()
    lease, waiting = house.outwait("m-a", "m-b")

    assert house.balancer.place(waiting) is Refusal.HELD, "m-a is at work still"
    assert house.balancer.place(house.ask("m-a", "carol")) is Refusal.HELD
    lease.release()
    assert isinstance(house.balancer.place(waiting), Lease)
    assert house.balancer.place(house.ask("m-a", "carol")) is Refusal.HELD, "m-b is being loaded"


def test_who_gives_up_leaves_the_server_to_the_model_that_it_has() -> None:
    house = House()
    _, waiting = house.outwait("m-a", "m-b")
    house.balancer.place(waiting)
    assert house.balancer.place(house.ask("m-a", "carol")) is Refusal.HELD

    house.clock.tick(5)
    assert isinstance(house.balancer.place(house.ask("m-a", "carol")), Lease)


def test_a_model_that_nobody_uses_stays_for_as_long_as_its_load_takes_at_the_most() -> None:
    house = House()
    house.balancer.seconds.note_pause(2.0)
    house.place("m-a").release()
    house.clock.tick(GUESSED_LOAD - 1)
    assert house.balancer.place(house.ask("m-b", "bob")) is Refusal.HELD

    house.clock.tick(1)
    assert house.place("m-b", "bob").instance == "m-b"


def test_a_model_whose_usual_pause_is_longer_than_its_load_goes_at_once() -> None:
    house = House()
    house.balancer.seconds.note_pause(GUESSED_LOAD + 1)
    house.place("m-a").release()

    assert house.place("m-b", "bob").instance == "m-b"


def test_of_two_servers_with_the_same_model_one_is_given_up() -> None:
    house = House(servers=2)
    house.shows("PC2", "m-a")
    first = house.place("m-a")
    second = house.place("m-a", "bob")
    assert {first.server, second.server} == {"PC1", "PC2"}
    waiting = house.ask("m-c", "carol")
    house.balancer.place(waiting)

    first.release()
    lease = house.balancer.place(waiting)
    assert isinstance(lease, Lease)
    assert lease.server == first.server
    assert house.place("m-a", "dave").server == second.server


def test_loads_are_learnt_for_each_model() -> None:
    house = House()
    house.balancer.seconds.note_pause(1e6)
    for model, seconds in (("m-b", 4.0), ("m-c", 40.0)):
        lease = house.place(model)
        house.shows("PC1", starting=frozenset({model}))
        house.clock.tick(seconds)
        house.shows("PC1", model)
        lease.release()

    backend = house.balancer.backend("PC1")
    assert backend.load_seconds(("m-b",)) == 4.0
    assert backend.load_seconds(("m-c",)) == 40.0


def test_nothing_is_kept_where_the_server_has_not_shown_what_it_has_room_for() -> None:
    house = House(kind=OLLAMA)
    house.place("m-a")

    assert house.place("m-b", "bob").instance == "m-b"


def test_a_server_that_has_unloaded_one_for_another_has_shown_it() -> None:
    house = House(kind=OLLAMA)
    house.place("m-b").release()
    house.shows("PC1", "m-b")
    house.place("m-b")

    assert house.balancer.place(house.ask("m-a", "bob")) is Refusal.HELD


def test_nothing_is_kept_with_a_bound_of_nothing() -> None:
    house = House(hold_max=0.0)
    house.place("m-a")

    assert house.place("m-b", "bob").instance == "m-b"


def test_a_pinned_model_stays_and_another_server_loads() -> None:
    house = House(servers=2, hold_max=0.0, pinned=lambda model: model == "m-a")
    house.clock.tick(1)
    house.place("m-b", "bob").release()

    assert house.place("m-c", "carol").server == "PC2"


def test_a_model_that_is_pinned_at_one_server_stays_there_until_it_is_not() -> None:
    house = House(servers=2, hold_max=0.0)
    house.balancer.pin_model("PC1", "m-a", on=True)
    house.clock.tick(1)
    house.place("m-b", "bob").release()
    assert house.place("m-c", "carol").server == "PC2"

    house.balancer.pin_model("PC1", "m-a", on=False)
    assert house.place("m-d", "dave").server == "PC1"


def test_the_only_server_unloads_even_what_is_pinned() -> None:
    house = House(pinned=lambda model: model == "m-a")
    house.balancer.seconds.note_pause(1e6)

    assert house.place("m-b", "bob").instance == "m-b"


@pytest.mark.parametrize("look", ["consider", "holds"])
def test_who_only_looks_changes_nothing(look: str) -> None:
    house = House()
    _, waiting = house.outwait("m-a", "m-b")

    getattr(house.balancer, look)(waiting)
    assert isinstance(house.balancer.place(house.ask("m-a", "carol")), Lease)


def test_a_server_that_must_load_tells_what_that_costs() -> None:
    house = House(servers=2)
    house.place("m-a")
    full = house.balancer.backend("PC1")
    cost = house.balancer.cost(house.ask("m-c", "carol"), full, house.clock.now)

    assert (cost.wait, cost.load, cost.read, cost.others) == (0.0, GUESSED_LOAD, None, GUESSED_LOAD)


def test_a_turn_of_a_model_is_counted() -> None:
    house = House()
    lease, waiting = house.outwait("m-a", "m-b")
    lease.release()
    assert isinstance(house.balancer.place(waiting), Lease)

    assert house.balancer.seconds.tally.turns == {"slot": 0, "model": 1}
    assert house.balancer.seconds.tally.held == PATIENCE


def test_a_model_that_stays_whatever_is_loaded_is_not_the_one_that_leaves() -> None:
    house = House()
    house.shows("PC1", "m-a", "m-c")
    house.place("m-c", "carol").release()
    house.clock.tick(60)
    house.place("m-a").release()
    house.shows("PC1", "m-c", starting=frozenset({"m-b"}))
    house.shows("PC1", "m-b", "m-c")
    house.place("m-b", "bob")

    assert house.balancer.place(house.ask("m-a")) is Refusal.HELD
