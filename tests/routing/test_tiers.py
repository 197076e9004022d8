"""Higher tiers are for what the lower ones have no room for, or none within a time."""

from app.routing.balancer import Balancer, Refusal
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.ledger import Lease
from app.routing.observations import ModelsSeen, ProbeFailed
from app.routing.prompt import Prompt
from tests.fakes.clock import Clock
from tests.fakes.rules import RULES

WAIT = 10.0


def balancer(clock: Clock, tier_wait: float = WAIT, hourly: int | None = None) -> Balancer:
    servers = [
        Server("A", "http://a", request_max=1),
        Server("C", "http://c", tier=2, requests_per_hour=hourly),
    ]
    fleet = Fleet.of(servers, {".*": ["A", "C"]})
    made = Balancer(fleet, clock=clock, tier_wait=tier_wait)
    for server in servers:
        made.observe(ModelsSeen(server.name, ["m"]))
    return made


def ask(turns: int = 1) -> Ask:
    said = ["user\n" + f"{number} " * 300 for number in range(turns)]
    return Ask("m", ("m",), "alice", "10.0.0.1", Prompt(said, opening=1))


def lease(placed: Lease | Refusal) -> Lease:
    assert isinstance(placed, Lease), placed
    return placed


def test_a_request_waits_for_a_lower_tier_before_it_takes_a_higher_one() -> None:
    clock = Clock()
    made = balancer(clock)
    lease(made.place(ask()))
    waiting = ask()
    assert made.place(waiting) is Refusal.FULL

    clock.tick(WAIT - 1)
    assert made.place(waiting) is Refusal.FULL

    clock.tick(1)
    assert lease(made.place(waiting)).server == "C"


def test_each_request_waits_by_itself() -> None:
    clock = Clock()
    made = balancer(clock)
    lease(made.place(ask()))
    clock.tick(100)
    assert made.place(ask()) is Refusal.FULL


def test_a_conversation_comes_back_from_a_higher_tier_as_soon_as_there_is_room() -> None:
    clock = Clock()
    made = balancer(clock)
    first = lease(made.place(ask()))
    waiting = ask(2)
    made.place(waiting)
    clock.tick(WAIT)
    there = lease(made.place(waiting))
    assert there.server == "C"
    for one in (there, first):
        one.release()

    assert lease(made.place(ask(3))).server == "A"


def test_nobody_waits_for_a_tier_of_which_nothing_is_up() -> None:
    made = balancer(Clock())
    made.observe(ProbeFailed("A", "models", unreachable=True))
    assert lease(made.place(ask())).server == "C"


def test_without_a_wait_a_higher_tier_takes_what_a_full_one_cannot() -> None:
    made = balancer(Clock(), tier_wait=0.0)
    assert [lease(made.place(ask())).server for _ in range(2)] == ["A", "C"]


def test_a_server_takes_no_more_within_an_hour_than_it_may() -> None:
    clock = Clock()
    made = balancer(clock, tier_wait=0.0, hourly=2)
    lease(made.place(ask()))
    for _ in range(2):
        lease(made.place(ask())).release()
    assert made.place(ask()) is Refusal.FULL

    clock.tick(3600)
    made.observe(ModelsSeen("C", ["m"]))

    assert lease(made.place(ask())).server == "C"


def test_what_was_counted_within_the_hour_outlives_a_reload() -> None:
    clock = Clock()
    made = balancer(clock, tier_wait=0.0, hourly=1)
    lease(made.place(ask()))
    lease(made.place(ask())).release()
    made.reconfigure(made.fleet, **RULES)
    assert made.place(ask()) is Refusal.FULL


def test_a_model_is_up_while_any_server_that_may_have_it_is() -> None:
    made = balancer(Clock())
    other = Ask("other", ("other",), "alice", "10.0.0.1")
    assert made.is_up(ask())
    assert not made.is_up(other)

    made.drain("A", on=True)
    made.observe(ProbeFailed("C", "models", unreachable=True))

    assert not made.is_up(ask())
