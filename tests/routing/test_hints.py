"""A request may say which servers it would like: that counts for so many seconds, and no more."""

from app.routing.balancer import HINT, Balancer, Refusal
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.ledger import Lease
from app.routing.observations import ModelsSeen, SelfReport
from app.routing.prompt import Prompt
from tests.fakes.clock import Clock
from tests.fakes.kinds import LLAMA_CPP

SPEED = 10.0
"""Tokens that a server reads in a second."""


class House:
    def __init__(self, *, slots: bool = False) -> None:
        self.clock = Clock()
        names = ["PC1", "PC2", "PC3"]
        known = [Server(name, f"http://{name}", request_max=1) for name in names]
        self.balancer = Balancer(Fleet.of(known, {".*": names}), clock=self.clock)
        for name in names:
            self.balancer.observe(ModelsSeen(name, ["m"]))
            if slots:
                self.balancer.observe(SelfReport(name, LLAMA_CPP, slots=1, busy_slots=frozenset()))
                self.balancer.backend(name).read_prompt(1, 1 / SPEED)

    def ask(
        self, *, prefer: tuple[str, ...] = (), avoid: tuple[str, ...] = (), tokens: int = 0
    ) -> Ask:
        said = [f"user\n{number} ".ljust(100, ".") for number in range(tokens // 25)]
        ask = Ask("m", ("m",), "alice", "::1", Prompt(said, opening=0) if said else None)
        ask.prefer, ask.avoid = prefer, avoid
        return ask

    def place(self, ask: Ask) -> Lease:
        lease = self.balancer.place(ask)
        assert isinstance(lease, Lease), lease
        return lease


def test_a_request_goes_to_the_server_that_it_prefers() -> None:
    house = House()
    house.place(house.ask(prefer=("PC3",))).release()

    assert house.place(house.ask(prefer=("PC2",))).server == "PC2"


def test_a_request_goes_anywhere_but_to_the_server_that_it_avoids() -> None:
    house = House()
    house.place(house.ask()).release()

    assert house.place(house.ask(avoid=("PC1",))).server == "PC2"


def test_a_preferred_server_without_room_is_no_reason_to_wait() -> None:
    house = House()
    house.place(house.ask(prefer=("PC2",)))

    assert house.place(house.ask(prefer=("PC2",))).server != "PC2"


def test_where_all_others_are_full_even_one_that_is_avoided_serves() -> None:
    house = House()
    for avoided in ("PC1", "PC1"):
        house.place(house.ask(avoid=(avoided,)))

    assert house.place(house.ask(avoid=("PC1",))).server == "PC1"
    assert house.balancer.place(house.ask(avoid=("PC1",))) is Refusal.FULL


def test_a_conversation_leaves_its_prompt_for_a_hint_that_costs_less_than_half_a_minute() -> None:
    house = House(slots=True)
    short, long = int(SPEED * (HINT - 5)) // 25 * 25, int(SPEED * (HINT + 10)) // 25 * 25
    for tokens, there in ((short, "PC2"), (long, "PC1")):
        home = house.place(house.ask(tokens=tokens, prefer=("PC1",)))
        assert home.server == "PC1"
        home.release()
        lease = house.place(house.ask(tokens=tokens + 25, prefer=("PC2",)))
        assert lease.server == there
        lease.release()
        house.clock.tick(1000)
        house = House(slots=True)
