"""Which server loads a model that none has in memory, and when it is better to wait."""

import pytest

from app.routing.balancer import Balancer, Refusal
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.ledger import Lease
from app.routing.model_memory import GUESSED_LOAD, Readiness
from app.routing.observations import CacheReuse, ModelsSeen, SelfReport
from tests.fakes.clock import Clock
from tests.fakes.kinds import LLAMA_SWAP

MODELS = ["m-a", "m-b", "m-c"]


def balancer(clock: Clock, limit: int | None = None) -> Balancer:
    servers = [Server(name, f"http://{name}", request_max=limit) for name in ("A", "B")]
    b = Balancer(Fleet.of(servers, {"m-.": ["A", "B"]}), clock=clock)
    for name in ("A", "B"):
        b.observe(ModelsSeen(name, MODELS))
    return b


def ask(model: str, client: str = "") -> Ask:
    return Ask(model, (model,), client or f"client of {model}", "10.0.0.1")


def place(b: Balancer, model: str, client: str = "") -> Lease:
    lease = b.place(ask(model, client))
    assert isinstance(lease, Lease)
    return lease


def shows(b: Balancer, server: str, *loaded: str, at: float = 0.0, **more: object) -> None:
    b.observe(SelfReport(server, LLAMA_SWAP, loaded=frozenset(loaded), asked_at=at, **more))  # type: ignore[arg-type]


def test_a_place_where_nothing_is_unloaded_goes_first() -> None:
    b = balancer(Clock())
    shows(b, "A", "m-a")
    shows(b, "B")

    assert place(b, "m-b").server == "B"


def test_a_model_that_is_being_loaded_is_joined() -> None:
    b = balancer(Clock())
    shows(b, "A", "m-a")
    shows(b, "B", starting=frozenset({"m-b"}))

    assert place(b, "m-b").server == "B"
    assert b.backend("B").readiness(("m-b",)) is Readiness.LOADING


def test_a_report_that_was_asked_for_before_a_request_ended_unloads_nothing() -> None:
    clock = Clock(100.0)
    b = balancer(clock)
    shows(b, "A", at=clock.now)
    shows(b, "B", at=clock.now)
    lease = place(b, "m-a")
    asked_at = clock.now
    clock.tick(0.5)
    lease.release()

    shows(b, lease.server, at=asked_at)

    assert b.backend(lease.server).readiness(("m-a",)) is Readiness.READY
    clock.tick(0.5)
    shows(b, lease.server, at=clock.now)
    assert b.backend(lease.server).readiness(("m-a",)) is Readiness.ROOM


def test_a_model_that_sleeps_wakes_where_it_is() -> None:
    b = balancer(Clock())
    shows(b, "A")
    shows(b, "B", "m-b", asleep=frozenset({"m-b"}))

    assert place(b, "m-b").server == "B"


def test_the_model_that_was_not_used_for_longest_is_unloaded() -> None:
    clock = Clock()
    b = balancer(clock)
    shows(b, "A")
    shows(b, "B")
    for model, server in (("m-a", "A"), ("m-b", "B"), ("m-a", "A")):
        clock.tick(1)
        lease = place(b, model)
        assert lease.server == server
        lease.release()
        shows(b, server, model, at=clock.now)

    assert place(b, "m-c").server == "B"


def test_a_server_that_has_held_two_models_has_room_for_a_second() -> None:
    b = balancer(Clock())
    shows(b, "A", "m-a", "m-b")
    shows(b, "A", "m-a")
    shows(b, "B", "m-b")

    assert b.backend("A").readiness(("m-c",)) is Readiness.ROOM
    assert b.backend("B").readiness(("m-c",)) is Readiness.SWAP


def test_a_full_server_is_waited_for_until_a_load_would_be_quicker() -> None:
    clock = Clock()
    b = balancer(clock, limit=1)
    shows(b, "A", "m-a")
    shows(b, "B", "m-b")
    place(b, "m-a", "alice")

    assert b.place(ask("m-a", "bob")) is Refusal.FULL
    clock.tick(GUESSED_LOAD + 1)
    assert place(b, "m-a", "bob").server == "B"


def test_many_that_wait_for_one_server_let_another_load() -> None:
    clock = Clock()
    b = balancer(clock, limit=1)
    shows(b, "A", "m-a")
    shows(b, "B", "m-b")
    first = place(b, "m-a", "alice")
    first.succeeded = True
    clock.tick(4)
    first.release()
    place(b, "m-a", "alice")
    assert b.place(ask("m-a", "bob")) is Refusal.FULL

    b.queued = lambda _: 2
    assert place(b, "m-a", "bob").server == "B"


def test_how_long_a_load_takes_is_learnt() -> None:
    clock = Clock()
    b = balancer(clock)
    shows(b, "A")
    shows(b, "B", "m-b")
    assert place(b, "m-a").server == "A"
    clock.tick(3)
    shows(b, "A", "m-a", at=clock.now)

    assert b.backend("A").load_seconds(("m-a",)) == 3


def loading(ends_seen: float | None) -> tuple[Balancer, Lease]:
    """Have a model loaded for a request whose first token comes after five seconds."""
    clock = Clock(100.0)
    b = balancer(clock)
    shows(b, "A")
    shows(b, "B", "m-b")
    lease = place(b, "m-a")
    clock.tick(3)
    if ends_seen is not None:
        shows(b, "A", "m-a", at=100.0 + ends_seen)
    clock.tick(7)
    lease.reuse, lease.succeeded = CacheReuse(prompt=1000, cached=0, seconds=5.0), True
    lease.release()
    return b, lease


def test_a_request_knows_how_long_its_model_was_loaded() -> None:
    _, lease = loading(ends_seen=3)

    assert lease.load == 3


def test_a_load_whose_end_was_not_seen_has_ended_with_the_first_token() -> None:
    _, lease = loading(ends_seen=None)

    assert lease.load == 5  # a load is believed to take ten


def test_a_server_reads_as_fast_as_it_does_once_the_model_is_loaded() -> None:
    b, _ = loading(ends_seen=3)

    assert b.backend("A").prefill == 500


@pytest.mark.parametrize("ends_seen", [3, None])
def test_a_request_to_a_model_in_memory_waits_for_no_load(ends_seen: float | None) -> None:
    b, _ = loading(ends_seen)
    lease = place(b, "m-a")
    lease.succeeded = True
    lease.release()

    assert (lease.server, lease.load) == ("A", 0)
