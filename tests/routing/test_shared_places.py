"""What other replicas have of a server's places counts as if it were ours."""

from app.routing.balancer import Balancer, Refusal
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.ledger import Lease
from app.routing.observations import ModelsSeen
from tests.fakes.clock import Clock


def balancer(limit: int | None = 3) -> Balancer:
    b = Balancer(
        Fleet.of([Server("A", "http://A", request_max=limit)], {".*": ["A"]}), clock=Clock()
    )
    b.observe(ModelsSeen("A", ["m"]))
    return b


def places(b: Balancer) -> int:
    """Take all places that there are, and count them."""
    leases: list[Lease] = []
    while isinstance(lease := b.place(Ask("m", ("m",), f"{len(leases)}", "10.0.0.1")), Lease):
        leases.append(lease)
    assert lease is Refusal.FULL
    for each in leases:
        each.release()
    return len(leases)


def test_places_of_others_are_not_given_away() -> None:
    b = balancer()
    b.others_at("A", 2)

    assert places(b) == 1


def test_a_share_bounds_us_and_is_over_once_others_are_known() -> None:
    b = balancer()
    found = []
    for others, share in ((0, 1), (0, None)):
        b.others_at("A", others, share)
        found.append(places(b))

    assert found == [1, 3]


def test_a_place_that_others_free_is_announced() -> None:
    b = balancer(limit=1)
    b.others_at("A", 1)
    announced: list[bool] = []
    b.on_room = lambda: announced.append(b.backend("A").ledger.full)
    b.others_at("A", 0)

    assert announced == [False]


def test_requests_that_others_sent_and_the_server_tells_of_count_once() -> None:
    b = balancer()
    b.backend("A").ledger.foreign = 2
    b.others_at("A", 2)

    assert places(b) == 1


def test_a_server_that_was_removed_is_nobodys() -> None:
    b = balancer()
    b.others_at("B", 2)

    assert places(b) == 3
