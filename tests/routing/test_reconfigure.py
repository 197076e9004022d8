"""Other settings are taken in, and what is known of the servers that stay is kept."""

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.routing.balancer import Balancer, Refusal
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.kind import Kind
from app.routing.ledger import Lease
from app.routing.observations import Introduced, ModelsSeen, SelfReport
from tests.fakes.clock import Clock
from tests.fakes.rules import RULES

ASK = Ask("m", ("m",), "alice", "10.0.0.1")


def fleet(limits: Mapping[str, int | None]) -> Fleet:
    servers = [Server(n, f"http://{n}", request_max=most) for n, most in limits.items()]
    return Fleet.of(servers, {".*": list(limits)} if limits else {})


def balancer(limits: Mapping[str, int | None]) -> Balancer:
    made = Balancer(fleet(limits), clock=Clock())
    for name in limits:
        made.observe(ModelsSeen(name, ["m"]))
    return made


def change(made: Balancer, limits: Mapping[str, int | None]) -> None:
    made.reconfigure(fleet(limits), **RULES)


def lease(placed: Lease | Refusal) -> Lease:
    assert isinstance(placed, Lease), placed
    return placed


def test_a_server_that_is_added_is_waited_for_where_no_other_is_known_to_have_the_model() -> None:
    made = Balancer(fleet({"A": 1}), clock=Clock())
    made.observe(ModelsSeen("A", ["other"]))
    change(made, {"B": 1, "A": 1})
    assert made.place(ASK) is Refusal.UNASKED

    made.observe(ModelsSeen("B", ["m"]))
    made.observe(Introduced("B"))

    assert lease(made.place(ASK)).server == "B"


def test_a_server_that_is_added_is_not_waited_for_where_another_has_the_model() -> None:
    made = balancer({"A": 1})
    change(made, {"B": 1, "A": 1})

    assert lease(made.place(ASK)).server == "A"
    assert made.place(ASK) is Refusal.UNASKED


def test_a_server_that_stays_is_not_asked_anew_and_keeps_its_clients() -> None:
    made = balancer({"A": 4, "B": 4})
    first = lease(made.place(ASK))
    first.release()

    change(made, {"B": 2, "A": 2})

    again = lease(made.place(ASK))
    assert (again.server, again.reason) == (first.server, "sticky")


def test_a_pin_to_a_server_that_is_removed_is_forgotten() -> None:
    made = balancer({"A": 1, "B": 1})
    lease(made.place(ASK)).release()
    assert len(made.pins()) == 1

    change(made, {"B": 1})

    assert made.pins() == []


def test_a_lease_at_a_server_that_is_removed_ends_and_tells_of_room() -> None:
    made = balancer({"A": 1})
    held = lease(made.place(ASK))
    change(made, {})
    told = []
    made.on_room = lambda: told.append(1)

    held.release()

    assert told
    assert [*made.backends()] == []


def test_what_is_told_of_a_server_that_is_removed_means_nothing() -> None:
    made = balancer({"A": 1, "B": 1})
    change(made, {"B": 1})

    made.observe(ModelsSeen("A", ["m"]))

    assert [backend.server.name for backend in made.backends()] == ["B"]


def test_a_limit_that_is_no_longer_set_is_the_slots_that_the_server_tells() -> None:
    made = balancer({"A": 1})
    made.observe(SelfReport("A", Kind("llamacpp"), slots=3))
    assert made.backend("A").ledger.limit == 1

    change(made, {"A": None})

    assert made.backend("A").ledger.limit == 3


@given(
    st.lists(
        st.one_of(
            st.just("place"),
            st.integers(0, 20),  # release that one of those in flight
            st.dictionaries(st.sampled_from("ABC"), st.integers(1, 3), max_size=3),
        ),
        max_size=60,
    )
)
@settings(deadline=None)
def test_no_server_gets_more_than_its_limit_however_often_it_is_removed_and_added_back(
    steps: list[str | int | dict[str, int]],
) -> None:
    made = balancer({})
    limits: dict[str, int] = {}
    held: list[Lease] = []
    for step in steps:
        if isinstance(step, dict):
            limits = step
            change(made, limits)
            for name in limits:
                made.observe(ModelsSeen(name, ["m"]))
                made.observe(Introduced(name))
        elif isinstance(step, int):
            if held:
                held.pop(step % len(held)).release()
        elif isinstance(placed := made.place(ASK), Lease):
            before = Counter(one.server for one in held)[placed.server]
            assert before < limits[placed.server]
            held.append(placed)
        for backend in made.backends():
            mine = sum(one.server == backend.server.name for one in held)
            assert backend.ledger.total == mine
    for one in held:
        one.release()
    assert all(backend.ledger.total == 0 for backend in made.backends())


def test_a_server_drains_until_everybody_who_wanted_that_says_otherwise() -> None:
    made = balancer({"A": 1})
    made.drain("A", on=True)
    made.drain("A", on=True, by="silent")

    made.drain("A", on=False, by="silent")
    assert made.backend("A").draining

    made.drain("A", on=False)
    assert not made.backend("A").draining


@pytest.mark.parametrize("listed", [None, ["other"]])
def test_a_server_that_no_setting_names_gets_nothing_but_what_it_lists(
    listed: list[str] | None,
) -> None:
    joined = Server("A", "http://a", listed_only=True)
    made = Balancer(Fleet.of([joined], {".*": ["A"]}), clock=Clock())
    made.observe(ModelsSeen("A", listed))
    assert made.place(ASK) is Refusal.UNKNOWN

    made.observe(ModelsSeen("A", ["m"]))

    assert lease(made.place(ASK)).server == "A"
