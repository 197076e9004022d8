"""Prompts that other replicas have placed are followed as our own are."""

from app.routing.balancer import Balancer
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.ledger import Lease
from app.routing.observations import ModelsSeen
from app.routing.pins import Pin
from app.routing.prompt import Prompt
from app.routing.told_prompts import ToldPrompt, follow
from tests.fakes.clock import Clock

TALK = ["system\n" + "You are kind. " * 100, "user\nHello"]
MORE = [*TALK, "assistant\nHi", "user\nBye"]


def balancer(clock: Clock | None = None, limit: int = 2) -> Balancer:
    servers = [Server(name, f"http://{name}", request_max=limit) for name in "AB"]
    b = Balancer(Fleet.of(servers, {".*": ["A", "B"]}), clock=clock or Clock())
    for name in "AB":
        b.observe(ModelsSeen(name, ["m"]))
    return b


def told(
    texts: list[str], slot: int | None = 1, continued: int = 0, *, named: bool = True
) -> ToldPrompt:
    prompt = Prompt.summed_up(Prompt(texts, 1).summary())
    return ToldPrompt("m", slot, named, 2, continued, prompt, 0.0)


def place(b: Balancer, texts: list[str], client: str = "x") -> Lease:
    lease = b.place(Ask("m", ("m",), client, "10.0.0.1", Prompt(texts, 1)))
    assert isinstance(lease, Lease)
    return lease


def test_a_conversation_goes_where_another_replica_has_sent_it() -> None:
    b = balancer()
    occupancy = follow(b.backend("B"), told(TALK))
    assert occupancy is not None
    occupancy.end(1.0, worked=True)
    lease = place(b, MORE)

    assert (lease.server, lease.reason) == ("B", "cached_prompt")
    assert lease.occupancy is not None
    assert lease.occupancy.slot is not None
    assert lease.occupancy.slot.number == 1


def test_a_slot_that_another_replica_uses_is_not_free() -> None:
    b = balancer()
    follow(b.backend("A"), told(TALK, slot=0))
    other = place(b, ["system\nOther. " + "So. " * 200, "user\nWhy?"])

    assert other.occupancy is not None
    assert other.occupancy.slot is not None
    assert (other.server, other.occupancy.slot.number) != ("A", 0)


def test_a_prompt_that_came_to_nothing_is_not_believed_to_be_there() -> None:
    b = balancer()
    occupancy = follow(b.backend("B"), told(TALK))
    assert occupancy is not None
    occupancy.end(1.0, worked=False)

    assert place(b, MORE).reason != "cached_prompt"


def test_a_slot_that_there_is_not_is_left_out() -> None:
    assert follow(balancer().backend("A"), told(TALK, slot=9)) is None


def test_the_newer_pin_holds() -> None:
    b = balancer()
    for server, at in (("A", 999.0), ("B", 998.0)):
        b.hear_of_pin("x", "m", Pin(server, "m", "10.0.0.1", at))

    assert [pin.server for _, _, pin in b.pins()] == ["A"]


def test_a_pin_to_a_server_that_there_is_not_is_left_out() -> None:
    b = balancer()
    b.hear_of_pin("x", "m", Pin("C", "m", "10.0.0.1", 1.0))

    assert not b.pins()


def test_who_has_seen_a_server_work_believes_that_more() -> None:
    clock = Clock()
    b = balancer(clock)
    lease = place(b, TALK)
    lease.succeeded = True
    lease.release()
    b.hear_of_ejection(lease.server, "reset", clock.now + 60)
    at_first = b.backend(lease.server).status
    clock.now += 30
    b.hear_of_ejection(lease.server, "reset", clock.now + 60)

    assert at_first == "idle"
    assert b.backend(lease.server).status == "ejected"


def test_a_server_that_works_for_another_replica_is_back() -> None:
    b = balancer(clock := Clock())
    b.hear_of_ejection("A", "reset", clock.now + 60)
    b.hear_of_return("A")

    assert b.backend("A").status == "idle"


def learnt(**facts: object) -> dict[str, object]:
    nothing = dict.fromkeys(("prefill", "service_seconds", "characters", "lost_from"))
    return {"instance": "m", "model": "m", "shown": 0, **nothing, **facts}


def test_what_another_replica_has_learnt_of_a_server_is_known() -> None:
    b = balancer()
    backend = b.backend("A")
    follow(backend, told(TALK))  # its cache is followed from now on
    b.hear_of_learnt("A", learnt(prefill=900.0, service_seconds=2.0, shown=5000, lost_from=9000.0))

    assert (backend.prefill, backend.service_seconds) == (900.0, 2.0)
    cache = backend.prompt_cache("m")
    assert (cache.shown, cache.lost_from) == (5000, 9000.0)


def test_a_replica_that_knows_nothing_yet_takes_no_knowledge_away() -> None:
    b = balancer()
    backend = b.backend("A")
    follow(backend, told(TALK))
    b.hear_of_learnt("A", learnt(prefill=900.0, service_seconds=2.0, shown=5000, lost_from=9000.0))
    b.hear_of_learnt("A", learnt())

    assert (backend.prefill, backend.service_seconds) == (900.0, 2.0)
    assert backend.prompt_cache("m").shown == 5000


def test_a_load_that_another_replica_has_measured_is_believed() -> None:
    memory = balancer().backend("A").memory
    memory.hear_of_load("m", 42.0)

    assert memory.load_seconds(("m",)) == 42.0
