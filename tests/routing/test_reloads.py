"""Ollama loads a model again for another context, so that is part of what is in memory."""

import pytest

from app.routing.balancer import Balancer, Refusal
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.ledger import Lease
from app.routing.model_memory import GUESSED_LOAD
from app.routing.observations import ModelsSeen, SelfReport
from app.routing.seconds import STRETCH, WRITING
from tests.fakes.clock import Clock
from tests.fakes.kinds import OLLAMA

SHORT, LONG = 8_192, 32_768


class House:
    """Ollama servers that have the model in memory, each with such a context."""

    def __init__(self, *contexts: int) -> None:
        self.clock = Clock()
        names = [f"PC{number}" for number, _ in enumerate(contexts, 1)]
        servers = [Server(name, f"http://{name}", request_max=4) for name in names]
        fleet = Fleet.of(servers, {".*": names})
        self.balancer = Balancer(fleet, clock=self.clock, hold_max=30.0)
        for name, context in zip(names, contexts, strict=True):
            self.balancer.observe(ModelsSeen(name, ["m"]))
            self.shows(name, context)
            # Something was asked for there, as it is in memory.
            self.balancer.backend(name).note("m", self.clock.now, context)

    def shows(self, server: str, context: int) -> None:
        loaded = frozenset({"m"} if context else ())
        report = SelfReport(
            server, OLLAMA, loaded=loaded, contexts={"m": context}, asked_at=self.clock.now
        )
        self.balancer.observe(report)

    def ask(self, context: int, client: str = "alice") -> Ask:
        ask = Ask("m", ("m",), client, client)
        ask.context = context
        return ask

    def place(self, context: int, client: str = "alice") -> Lease | Refusal:
        return self.balancer.place(self.ask(context, client))

    def goes(self, context: int, client: str = "alice") -> Lease:
        placed = self.place(context, client)
        assert isinstance(placed, Lease), placed
        return placed


@pytest.mark.parametrize(("context", "server"), [(SHORT, "PC1"), (LONG, "PC2")])
def test_a_request_goes_where_the_model_has_the_context_that_it_wants(
    context: int, server: str
) -> None:
    house = House(SHORT, LONG)
    for _ in range(3):
        assert house.goes(context).server == server


def test_a_request_for_another_context_waits_while_the_model_is_in_use() -> None:
    house = House(SHORT)
    house.goes(SHORT)
    assert house.place(LONG, "bob") is Refusal.HELD
    house.goes(SHORT, "carol")


def test_after_its_patience_it_is_loaded_again_once_it_is_quiet() -> None:
    house = House(SHORT)
    at_work, waiting = house.goes(SHORT), house.ask(LONG, "bob")
    assert house.balancer.place(waiting) is Refusal.HELD
    house.clock.tick(STRETCH * (GUESSED_LOAD + WRITING))

    assert house.balancer.place(waiting) is Refusal.HELD  # it is still at work
    assert house.place(SHORT, "carol") is Refusal.HELD
    at_work.release()
    assert isinstance(house.balancer.place(waiting), Lease)


def test_what_is_asked_for_holds_from_then_on() -> None:
    house = House(SHORT)
    house.goes(SHORT).release()
    house.clock.tick(100)
    house.goes(LONG, "bob")
    house.goes(LONG, "carol")
    assert house.place(SHORT) is Refusal.HELD


def test_what_a_server_takes_where_requests_do_not_say_is_learnt() -> None:
    house = House(LONG, SHORT)
    house.goes(0).release()  # PC1 loads it again
    house.shows("PC1", 4_096)

    assert house.goes(0).server == "PC1"
    assert house.goes(SHORT).server == "PC2"


def test_where_it_is_not_known_any_context_will_do() -> None:
    house = House(LONG)
    for client in ("alice", "bob"):
        house.goes(0, client)
