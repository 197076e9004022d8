"""Titles, tags and summaries cost nobody a conversation that could have stayed."""

import pytest

from app.routing.balancer import Balancer
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.health_window import Sample
from app.routing.ledger import Lease
from app.routing.observations import HealthSeen, ModelsSeen, SelfReport
from app.routing.prompt import Prompt
from tests.fakes.clock import Clock
from tests.fakes.kinds import LLAMA_CPP

SHORT = Prompt([])


def balancer(clock: Clock, slots: int, *tiers: int) -> Balancer:
    """Run servers A, B, … of one model with so many slots each."""
    names = "AB"[: len(tiers)]
    servers = [Server(n, f"http://{n}", tier=t) for n, t in zip(names, tiers, strict=True)]
    found = Balancer(Fleet.of(servers, {"m": list(names)}), clock=clock)
    for name in names:
        found.observe(ModelsSeen(name, {"m"}))
        found.observe(HealthSeen(name, Sample(False, 0.0, clock())))
        found.observe(SelfReport(name, LLAMA_CPP, slots=slots, busy_slots=frozenset()))
    return found


def served(found: Balancer, prompt: Prompt, client: str = "alice") -> tuple[str, int | None, str]:
    """Have a request served, and return where it went."""
    lease = found.place(Ask("m", ("m",), client, "10.0.0.1", prompt))
    assert isinstance(lease, Lease)
    lease.succeeded = True
    lease.release()
    return lease.server, lease.slot, lease.reason


def conversation(who: str, size: int, *, brief: bool = False) -> Prompt:
    prompt = Prompt(["system " * 50, f"user {who} " + "x" * size], opening=1)
    prompt.brief = brief
    return prompt


@pytest.mark.parametrize("client", ["alice", "carol"])
def test_a_short_request_goes_where_it_evicts_nobody(client: str) -> None:
    found = balancer(Clock(), 1, 1, 1)
    assert served(found, conversation("alice", 9000))[0] == "A"

    assert served(found, SHORT, client)[0] == "B"

    assert served(found, conversation("alice", 9000))[::2] == ("A", "cached_prompt")


def test_a_short_request_wakes_no_reserve() -> None:
    found = balancer(Clock(), 1, 1, 2)
    assert served(found, conversation("alice", 9000))[0] == "A"

    assert served(found, SHORT)[0] == "A"


def test_a_side_request_evicts_the_short_conversation_though_the_long_one_is_older() -> None:
    clock = Clock()
    found = balancer(clock, 2, 1)
    served(found, conversation("long", 9000))
    clock.tick(100)
    _, slot, _ = served(found, conversation("short", 500))

    assert served(found, conversation("title", 400, brief=True)) == ("A", slot, "evicted_prompt")

    assert served(found, conversation("long", 9000))[2] == "cached_prompt"


def test_a_conversation_evicts_what_was_unused_for_longest() -> None:
    clock = Clock()
    found = balancer(clock, 2, 1)
    _, slot, _ = served(found, conversation("long", 9000))
    clock.tick(100)
    served(found, conversation("short", 500))

    assert served(found, conversation("new", 400)) == ("A", slot, "evicted_prompt")
