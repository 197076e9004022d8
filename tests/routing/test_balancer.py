from app.routing.balancer import Balancer, Refusal
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.ledger import Lease
from app.routing.news import Failure, HealthAnswer, ModelsAnswer
from app.routing.window import Sample
from tests.fakes.clock import Clock


def balancer(
    clock: Clock | None = None, *, request_max: int | None = 1, **options: object
) -> Balancer:
    servers = [Server(name, f"http://{name}", request_max=request_max) for name in ("A", "B")]
    fleet = Fleet.of(servers, {"m.*": ["A", "B"]}, fallback="B")
    return Balancer(fleet, clock=clock or Clock(), **options)  # type: ignore[arg-type]


def ask(client: str = "alice", model: str = "m") -> Ask:
    return Ask(model, (model,), client, "10.0.0.1")


def placed(answer: Lease | Refusal) -> Lease:
    assert isinstance(answer, Lease)
    return answer


def test_choosing_and_booking_are_one_step() -> None:
    b = balancer()

    servers = [placed(b.place(ask(client))).server for client in ("alice", "bob")]

    assert servers == ["A", "B"]
    assert b.place(ask("carol")) is Refusal.FULL


def test_a_released_place_can_be_taken_again_and_is_announced() -> None:
    b = balancer()
    leases = [placed(b.place(ask(client))) for client in ("alice", "bob")]
    announced = []
    b.on_room = lambda: announced.append(b.standing("A").ledger.total)

    leases[0].release()

    assert announced == [0]
    assert placed(b.place(ask("carol"))).server == "A"


def test_a_client_comes_back_to_the_instance_it_was_on_under_the_name_it_asks_for() -> None:
    """A pin stored by instance and looked up by model was lost for every `m-2`."""
    b = balancer(request_max=2)
    b.learn(ModelsAnswer("A", ["m", "m-2"]))
    with placed(b.place(ask("bob"))):
        first = placed(b.place(ask("alice")))
        assert (first.server, first.instance) == ("A", "m-2")
    first.release()

    second = placed(b.place(ask("alice")))

    assert (second.instance, second.reason) == ("m-2", "sticky")


def test_a_pin_is_refreshed_at_the_end_of_a_request_too() -> None:
    clock = Clock()
    b = balancer(clock)
    with placed(b.place(ask("bob"))):
        long = placed(b.place(ask("alice")))
        assert long.server == "B"
        clock.tick(1_000)
        long.release()
    clock.tick(179)

    assert placed(b.place(ask("alice"))).reason == "sticky"


def test_the_pinned_server_is_left_when_it_is_invalid() -> None:
    b = balancer()
    placed(b.place(ask("alice"))).release()
    b.learn(Failure("A", "models", unreachable=True))

    assert placed(b.place(ask("alice"))).server == "B"


def test_servers_that_were_tried_are_not_chosen_again() -> None:
    b = balancer()

    assert placed(b.place(ask(), tried={"A"})).server == "B"
    assert b.place(ask(), tried={"A", "B"}) is Refusal.UNKNOWN


def test_a_model_that_no_pattern_matches_goes_to_the_fallback_unchanged_and_is_not_pinned() -> None:
    b = balancer()
    b.learn(ModelsAnswer("B", ["other", "other-2"]))

    lease = placed(b.place(ask(model="other")))

    assert (lease.server, lease.instance, lease.reason) == ("B", "other", "fallback")
    assert b.pins() == []
    assert b.place(ask(model="other")) is Refusal.FULL


def test_without_servers_there_is_nowhere_to_go() -> None:
    b = Balancer(Fleet.of([]), clock=Clock())

    assert b.place(ask()) is Refusal.UNKNOWN
    assert b.place_unrouted("/v1/embeddings", "10.0.0.1") is Refusal.UNKNOWN


def test_requests_that_are_not_routed_share_the_limit_of_the_fallback() -> None:
    b = balancer()
    lease = placed(b.place_unrouted("/v1/embeddings", "10.0.0.1"))

    assert (lease.server, lease.instance) == ("B", "/v1/embeddings")
    assert b.place_unrouted("/v1/embeddings", "10.0.0.1") is Refusal.FULL


def test_overflow_first_sends_what_finds_all_full_to_the_first_server() -> None:
    b = balancer(overflow="first")
    for client in ("alice", "bob"):
        placed(b.place(ask(client)))

    lease = placed(b.place(ask("carol")))

    assert (lease.server, lease.reason) == ("A", "overflow")


def test_news_of_health_reaches_the_window() -> None:
    b = balancer()
    b.learn(HealthAnswer("A", Sample(True, 90.0, 5.0)))

    assert b.standing("A").window.last == Sample(True, 90.0, 5.0)
