"""Places are weighed in seconds: some are held, and some requests wait, each within bounds."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.routing.balancer import Balancer, Refusal
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.ledger import Lease
from app.routing.observations import CacheReuse, ModelsSeen, SelfReport
from app.routing.prompt import Prompt
from app.routing.prompt_cache import Rank
from tests.fakes.clock import Clock
from tests.fakes.kinds import LLAMA_CPP

TOKENS = 25
"""Tokens of a turn, which has a hundred characters."""

SPEED = 10.0
"""Tokens that a server reads in a second: a turn takes 2.5 s."""


class House:
    """Servers of one slot each, whose speed is known, and what waits for them.

    With `ram` they may hold prompts that have left their slots.
    """

    def __init__(
        self, servers: int = 1, hold_max: float = 30.0, *, known: bool = True, ram: bool = False
    ) -> None:
        self.clock = Clock()
        fleet = [Server(name, f"http://{name}", request_max=1) for name in "ABC"[:servers]]
        self.balancer = Balancer(
            Fleet.of(fleet, {".*": [one.name for one in fleet]}),
            clock=self.clock,
            hold_max=hold_max,
        )
        self.waiting = 0
        self.balancer.queued = lambda _: self.waiting
        for server in fleet:
            self.balancer.observe(ModelsSeen(server.name, ["m"]))
            report = SelfReport(server.name, LLAMA_CPP, slots=1, busy_slots=frozenset())
            self.balancer.observe(report)
            backend = self.balancer.backend(server.name)
            if known:
                backend.read_prompt(1, 1 / SPEED)
            cache = backend.prompt_cache("m")
            backend.keep("m", cache)
            if not ram:
                cache.correct(Rank(0, 2), held=False)

    def ask(self, who: str, turns: int) -> Ask:
        said = [f"user\n{who} {number} ".ljust(100, ".") for number in range(turns)]
        return Ask("m", ("m",), who, "10.0.0.1", Prompt(said, opening=0))

    def place(self, who: str, turns: int) -> Lease | Refusal:
        return self.balancer.place(self.ask(who, turns))

    def serve(self, who: str, turns: int, seconds: float = 1.0) -> str:
        """Serve a request, which takes so many seconds; return where."""
        lease = self.place(who, turns)
        assert isinstance(lease, Lease), lease
        self.clock.tick(seconds)
        lease.succeeded = True
        lease.reuse = CacheReuse(turns * TOKENS, 0, None)
        lease.release()
        return lease.server


def test_a_place_is_held_for_the_conversation_that_has_just_left_it() -> None:
    house = House()
    house.serve("alice", 20)
    assert house.place("bob", 20) is Refusal.HELD

    house.clock.tick(5)
    assert house.serve("alice", 21) == "A"


def test_a_place_is_held_no_longer_than_it_may_be() -> None:
    house = House(hold_max=20.0)
    house.serve("alice", 20)
    bob = house.ask("bob", 20)
    assert house.balancer.place(bob) is Refusal.HELD
    assert house.balancer.seconds.again_at == house.clock.now + 20

    house.clock.tick(20)
    assert isinstance(house.balancer.place(bob), Lease)


def test_a_place_is_held_no_longer_than_its_eviction_costs() -> None:
    house = House()
    house.serve("alice", 8)  # 20 s of reading
    house.place("bob", 20)
    assert house.balancer.seconds.again_at == pytest.approx(house.clock.now + 20, abs=0.1)


def test_a_place_is_not_held_for_whom_is_usually_away_for_longer() -> None:
    house = House()
    house.serve("alice", 20)
    house.clock.tick(100)
    house.serve("alice", 21)
    assert isinstance(house.place("bob", 20), Lease)


def test_nobody_waits_beside_a_held_place_for_longer_than_may_be() -> None:
    house = House()
    house.balancer.seconds.wait_max = 5.0
    house.serve("alice", 20)
    bob = house.ask("bob", 20)
    assert house.balancer.place(bob) is Refusal.HELD

    house.clock.tick(5)
    assert isinstance(house.balancer.place(bob), Lease)


def test_a_place_is_not_held_for_little() -> None:
    house = House()
    house.balancer.backend("A").read_prompt(1_000_000, 1.0)
    for _ in range(30):
        house.balancer.backend("A").read_prompt(1_000_000, 1.0)
    house.serve("alice", 20)
    assert isinstance(house.place("bob", 20), Lease)


@pytest.mark.parametrize("house", [House(hold_max=0.0), House(known=False)])
def test_nothing_is_held_where_that_is_off_or_speeds_are_unknown(house: House) -> None:
    house.serve("alice", 20)
    assert isinstance(house.place("bob", 20), Lease)


def test_a_conversation_that_had_its_turn_leaves_its_place_to_whoever_waits() -> None:
    house = House()
    house.serve("alice", 20)
    house.clock.tick(1000)
    house.waiting = 1
    assert house.place("alice", 21) is Refusal.HELD
    assert isinstance(house.place("bob", 20), Lease)


def test_a_conversation_goes_on_after_its_turn_while_nobody_waits() -> None:
    house = House()
    house.serve("alice", 20)
    house.clock.tick(1000)
    assert house.serve("alice", 21) == "A"


def test_a_request_waits_for_the_server_that_has_its_prompt() -> None:
    house = House(servers=2)
    assert house.serve("alice", 40) == "A"
    house.clock.tick(1)
    busy = house.place("alice", 41)
    assert isinstance(busy, Lease)

    asked = house.ask("alice", 41)  # the same again, from another window
    assert house.balancer.place(asked) is Refusal.HELD

    house.clock.tick(200)
    assert isinstance(house.balancer.place(asked), Lease)


def test_a_lease_names_the_servers_among_which_seconds_decided() -> None:
    house = House(2)
    assert house.serve("alice", 20) != house.serve("bob", 10)
    house.clock.tick(60)  # nobody is waited for any more
    lease = house.place("carol", 4)
    assert isinstance(lease, Lease)

    assert [(one.server, one.read) for one in lease.considered] == [("B", 10.0), ("A", 10.0)]
    assert lease.considered[0].others < lease.considered[1].others
    assert lease.server == "B"


def test_a_short_prompt_is_not_worth_waiting_for() -> None:
    house = House()
    house.serve("alice", 20)
    assert isinstance(house.place("bob", 1), Lease)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 40)), max_size=30))
def test_whoever_asks_has_a_place_in_the_end_and_no_server_two_at_once(
    steps: list[tuple[str, int]],
) -> None:
    """Each asks, waits as long as it is told to, and is served before half its patience is over."""
    house = House(servers=2)
    house.balancer.seconds.wait_max = 60.0
    turns = dict.fromkeys("abcde", 4)
    for who, pause in steps:
        house.clock.tick(pause)
        turns[who] += 1
        asked, since = house.ask(who, turns[who]), house.clock.now
        house.balancer.seconds.again_at = math.inf  # that of an earlier step is nobody's
        placed = house.balancer.place(asked)
        while placed is Refusal.HELD:
            again = house.balancer.seconds.again_at
            assert house.clock.now < again <= since + 60.0
            house.clock.now = again
            house.balancer.seconds.again_at = math.inf
            placed = house.balancer.place(asked)
        assert isinstance(placed, Lease)
        assert house.balancer.backend(placed.server).ledger.total == 1
        house.clock.tick(1.0)
        placed.release()


def test_a_held_place_that_its_conversation_comes_back_to_has_saved_its_reading() -> None:
    house = House()
    house.serve("alice", 20)
    bob = house.ask("bob", 20)
    assert house.balancer.place(bob) is Refusal.HELD
    house.clock.tick(5)
    house.serve("alice", 21)

    tally = house.balancer.seconds.tally
    assert tally.saved == pytest.approx(20 * TOKENS / SPEED, rel=0.1)
    house.clock.tick(60)
    lease = house.balancer.place(bob)
    assert isinstance(lease, Lease)
    assert tally.held == lease.held == 66
    assert tally.turns == {"slot": 1, "model": 0}


def test_what_was_expected_is_compared_with_what_came_true() -> None:
    house = House()
    lease = house.place("alice", 20)
    assert isinstance(lease, Lease)
    assert lease.expected == pytest.approx(20 * TOKENS / SPEED, rel=0.1)

    lease.reuse = CacheReuse(20 * TOKENS, 0, 40.0)
    lease.release()
    tally = house.balancer.seconds.tally
    assert tally.expected == {"A": lease.expected}
    assert tally.measured == {"A": 40.0}
    assert lease.measured == 40.0


def test_each_server_tells_what_it_would_cost() -> None:
    house = House(servers=2)
    home = house.serve("alice", 20)
    house.serve("bob", 8)
    ask = house.ask("alice", 22)
    there, elsewhere = (house.balancer.backend(name) for name in sorted("AB", key=home.__ne__))
    now = house.clock.now

    costs = house.balancer.cost(ask, there, now), house.balancer.cost(ask, elsewhere, now)
    assert costs[0].read == pytest.approx(2 * TOKENS / SPEED, rel=0.2)
    assert costs[1].read == pytest.approx(22 * TOKENS / SPEED, rel=0.1)
    assert costs[0].others == 0.0
    assert costs[1].others == pytest.approx(8 * TOKENS / SPEED, rel=0.2)
    assert costs[1].first_token == costs[1].read


def test_nothing_is_expected_of_a_server_whose_speed_is_not_known() -> None:
    house = House(known=False)
    lease = house.place("alice", 20)
    assert isinstance(lease, Lease)

    assert lease.expected is None
    assert house.balancer.cost(house.ask("bob", 2), house.balancer.backend("A"), 0.0).read is None


def test_nothing_is_held_while_prompts_that_leave_their_slot_are_not_known_to_be_lost() -> None:
    house = House(ram=True)
    house.serve("alice", 20)

    assert isinstance(house.place("bob", 20), Lease)
