from app.routing.backend import Backend
from app.routing.choice import Ask, Choice, choose
from app.routing.fleet import Server
from app.routing.health_window import HealthWindow, Sample
from app.routing.ledger import Lease, Ledger
from app.routing.pins import Pin

ASK = Ask("m", ("m",), "alice", "10.0.0.1")


def backend(
    name: str,
    *models: str,
    busy: bool = False,
    dead: bool = False,
    limit: int | None = None,
    in_flight: tuple[str, ...] = (),
) -> Backend:
    window = HealthWindow(5, has_health=True)
    window.add(Sample(busy, 0.0, 0.0))
    if dead:
        window.failed("health", unreachable=True)
    ledger = Ledger(limit)
    for instance in in_flight:
        ledger.enter(
            Lease(name, instance, model="m", client="x", reason="", since=0.0, let_go=ledger.strike)
        )
    made = Backend(Server(name, f"http://{name}"), ledger, window)
    made.list_models(models or None)
    return made


def pin(server: str, instance: str = "m") -> Pin:
    return Pin(server, instance, "10.0.0.1", 0.0)


def test_the_first_server_with_a_free_instance_is_taken_in_configured_order() -> None:
    servers = [backend("A", "m", in_flight=("m",)), backend("B", "m"), backend("C", "m")]

    assert choose(ASK, servers, None, 0.0) == Choice("B", "m", "free_instance")


def test_a_free_second_instance_is_taken_before_another_server() -> None:
    servers = [backend("A", "m", "m-2", "m-10", in_flight=("m",)), backend("B", "m")]

    assert choose(ASK, servers, None, 0.0) == Choice("A", "m-2", "free_instance")


def test_instances_are_ordered_by_number_not_by_spelling() -> None:
    numbered = [f"m-{n}" for n in range(10, 1, -1)]
    assert backend("A", *numbered, "m", "m-x", "mm-3", "m-²").listed(("m",)) == (
        "m",
        *reversed(numbered),
    )


def test_a_busy_gpu_does_not_turn_a_request_away_from_a_free_instance() -> None:
    servers = [backend("A", "m", busy=True), backend("B", "m")]

    assert choose(ASK, servers, None, 0.0) == Choice("A", "m", "free_instance")


def test_without_a_free_instance_the_first_idle_server_is_taken() -> None:
    servers = [
        backend("A", "m", busy=True, in_flight=("m",)),
        backend("B", "m", in_flight=("m", "m")),
    ]

    assert choose(ASK, servers, None, 0.0) == Choice("B", "m", "idle")


def test_without_an_idle_server_the_least_loaded_against_its_limit_is_taken() -> None:
    servers = [
        backend("A", "m", busy=True, limit=2, in_flight=("m",)),
        backend("B", "m", busy=True, limit=8, in_flight=("m", "m")),
    ]

    assert choose(ASK, servers, None, 0.0) == Choice("B", "m", "least_loaded")


def test_a_full_server_gets_nothing_whatever_its_instance() -> None:
    servers = [
        backend("A", "m", "m-2", limit=1, in_flight=("other",)),
        backend("B", "m", busy=True, in_flight=("m",)),
    ]

    assert choose(ASK, servers, None, 0.0) == Choice("B", "m", "least_loaded")


def test_nothing_is_chosen_when_every_server_is_full() -> None:
    assert choose(ASK, [backend("A", "m", limit=1, in_flight=("m",))], None, 0.0) is None


def test_an_invalid_server_is_passed_over() -> None:
    servers = [backend("A", "m", dead=True), backend("B", "m", in_flight=("m",))]

    assert choose(ASK, servers, None, 0.0) == Choice("B", "m", "idle")


def test_invalid_servers_do_not_hide_that_the_valid_ones_are_full() -> None:
    servers = [backend("A", "m", dead=True), backend("B", "m", limit=1, in_flight=("m",))]

    assert choose(ASK, servers, None, 0.0) is None


def test_when_all_are_invalid_the_first_is_tried_anyway() -> None:
    servers = [backend("A", "m", dead=True), backend("B", "m", dead=True)]

    assert choose(ASK, servers, None, 0.0) == Choice("A", "m", "last_resort")


def test_a_server_that_drains_is_not_waited_for_where_others_might_answer() -> None:
    drained, dead = backend("A", "m"), backend("B", "m", dead=True)
    drained.drained_by.add("admin")

    assert choose(ASK, [drained, dead], None, 0.0) == Choice("B", "m", "last_resort")


def test_a_server_that_works_for_others_has_no_free_instance_and_is_not_idle() -> None:
    busy, free = backend("A", "m", limit=4), backend("B", "m")
    busy.ledger.foreign = 3

    assert choose(ASK, [busy, free], None, 0.0) == Choice("B", "m", "free_instance")
    assert choose(ASK, [busy], None, 0.0) == Choice("A", "m", "least_loaded")


def test_even_the_last_resort_keeps_its_limit() -> None:
    servers = [backend("A", "m", dead=True, limit=1, in_flight=("m",))]

    assert choose(ASK, servers, None, 0.0) is None


def test_a_server_known_not_to_have_the_model_is_passed_over() -> None:
    servers = [backend("A", "other"), backend("B", "m")]

    assert choose(ASK, servers, None, 0.0) == Choice("B", "m", "free_instance")


def test_a_name_without_a_tag_is_the_latest_where_a_server_lists_that() -> None:
    servers = [backend("A", "other:latest"), backend("B", "m:latest")]

    assert choose(ASK, servers, None, 0.0) == Choice("B", "m:latest", "free_instance")


def test_a_server_whose_models_are_unknown_may_have_any() -> None:
    assert choose(ASK, [backend("A")], None, 0.0) == Choice("A", "m", "free_instance")


def test_a_model_that_nobody_lists_is_for_the_servers_to_refuse() -> None:
    assert choose(ASK, [backend("A", "other")], None, 0.0) == Choice("A", "m", "free_instance")


def test_the_pin_decides_over_the_order_and_keeps_the_instance() -> None:
    servers = [backend("A", "m"), backend("B", "m", "m-2")]

    assert choose(ASK, servers, pin("B", "m-2"), 0.0) == Choice("B", "m-2", "sticky")


def test_the_pin_holds_while_its_instance_works_on_something_else() -> None:
    servers = [backend("A", "m"), backend("B", "m", limit=2, in_flight=("m",))]

    assert choose(ASK, servers, pin("B"), 0.0) == Choice("B", "m", "sticky")


def test_the_pin_gives_way_when_its_server_is_full_or_invalid_or_lost_the_instance() -> None:
    free = backend("A", "m")
    full = backend("B", "m", limit=1, in_flight=("m",))
    dead = backend("B", "m", dead=True)
    changed = backend("B", "m")

    assert choose(ASK, [free, full], pin("B"), 0.0) == Choice("A", "m", "free_instance")
    assert choose(ASK, [free, dead], pin("B"), 0.0) == Choice("A", "m", "free_instance")
    assert choose(ASK, [free, changed], pin("B", "m-2"), 0.0) == Choice("A", "m", "free_instance")


def test_each_server_gets_the_name_that_it_knows_the_model_by() -> None:
    ask = Ask("gpt-oss-high", ("gpt-oss-high", "gpt-oss"), "alice", "")

    assert choose(ask, [backend("A", "gpt-oss-high")], None, 0.0) == Choice(
        "A", "gpt-oss-high", "free_instance"
    )
    assert choose(ask, [backend("A", "gpt-oss")], None, 0.0) == Choice(
        "A", "gpt-oss", "free_instance"
    )
    assert choose(ask, [backend("A")], None, 0.0) == Choice("A", "gpt-oss-high", "free_instance")
