"""A prompt goes to a server whose context it fits into, as far as contexts are known."""

import pytest

from app.routing.balancer import Balancer, Refusal
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.ledger import Lease
from app.routing.observations import (
    CacheReuse,
    ContextSeen,
    ModelsSeen,
    Observation,
    ProbeFailed,
    SelfReport,
)
from app.routing.prompt import Prompt
from tests.fakes.clock import Clock
from tests.fakes.kinds import LLAMA_CPP, OLLAMA, VLLM

SMALL, LARGE = 1000, 4000


def balancer(*contexts: int | None, request_max: int = 4) -> Balancer:
    """Build servers A, B, … with contexts of so many tokens."""
    servers = [
        Server(name, f"http://{name}", request_max=request_max, context=context)
        for name, context in zip("ABC", contexts, strict=False)
    ]
    made = Balancer(Fleet.of(servers, {".*": [s.name for s in servers]}), clock=Clock())
    for server in servers:
        made.observe(ModelsSeen(server.name, ["m"]))
    return made


def ask(tokens: int, name: str = "a") -> Ask:
    """Ask with a prompt of so many tokens of four characters, unlike those of other names."""
    turn = "user\n" + name * 95
    turns = [turn] * (tokens // 25)
    return Ask("m", ("m",), "alice", "10.0.0.1", Prompt(turns, opening=1))


def server_of(made: Balancer, asked: Ask) -> str:
    lease = made.place(asked)
    assert isinstance(lease, Lease), lease
    lease.release()
    return lease.server


def test_a_prompt_that_does_not_fit_goes_where_it_does() -> None:
    made = balancer(SMALL, LARGE)
    assert server_of(made, ask(500)) == "A"
    assert server_of(made, ask(2000)) == "B"


def test_where_it_fits_nowhere_the_servers_decide() -> None:
    assert server_of(balancer(SMALL, SMALL), ask(2000)) == "A"


def test_a_server_whose_context_is_unknown_may_hold_it() -> None:
    assert server_of(balancer(SMALL, None), ask(2000)) == "B"


def test_it_waits_for_a_full_server_rather_than_going_where_it_does_not_fit() -> None:
    made = balancer(SMALL, LARGE, request_max=1)
    made.place(ask(2000))
    assert made.place(ask(2000, "b")) is Refusal.FULL


def test_it_goes_where_it_may_not_fit_when_nobody_else_is_up() -> None:
    made = balancer(SMALL, LARGE)
    for _ in range(3):
        made.observe(ProbeFailed("B", "models", unreachable=True))
    assert server_of(made, ask(2000)) == "A"


def test_a_conversation_leaves_the_cache_that_it_has_outgrown() -> None:
    made = balancer(SMALL, LARGE)
    assert server_of(made, ask(900)) == "A"
    assert server_of(made, ask(950)) == "A"
    assert server_of(made, ask(1100)) == "B"


@pytest.mark.parametrize(
    "told",
    [
        SelfReport("A", LLAMA_CPP, slots=4, contexts={"": SMALL}),
        SelfReport("A", OLLAMA, loaded=frozenset({"m"}), contexts={"m": SMALL}),
        ModelsSeen("A", ["m"], {"m": {"max_model_len": SMALL}}),
        ContextSeen("A", "m", SMALL),
    ],
)
def test_what_a_server_tells_of_its_context_counts(told: Observation) -> None:
    made = balancer(None, LARGE)
    made.observe(told)
    assert server_of(made, ask(2000)) == "B"


def test_what_the_settings_say_goes_before_what_a_server_tells() -> None:
    made = balancer(LARGE, LARGE)
    made.observe(ModelsSeen("A", ["m"], {"m": {"max_model_len": SMALL}}))
    assert server_of(made, ask(2000)) == "A"


def test_a_context_is_that_of_the_model_under_its_name_here() -> None:
    server = Server("A", "http://a", models={"m": "org/M"})
    other = Server("B", "http://b", context=LARGE)
    made = Balancer(Fleet.of([server, other], {".*": ["A", "B"]}), clock=Clock())
    made.observe(ModelsSeen("A", ["org/M"], {"org/M": {"max_model_len": SMALL}}))
    made.observe(ModelsSeen("B", ["m"]))
    made.observe(SelfReport("A", VLLM, contexts={"org/M": SMALL}))
    assert server_of(made, ask(2000)) == "B"


def test_how_many_characters_a_token_has_is_learnt_from_what_servers_count() -> None:
    made = balancer(SMALL, LARGE)
    lease = made.place(ask(500))
    assert isinstance(lease, Lease)
    lease.reuse = CacheReuse(1000, None, None)  # two characters each
    lease.release()
    assert server_of(made, ask(600, "b")) == "B"


def test_a_count_that_cannot_be_right_is_believed_within_bounds() -> None:
    made = balancer(SMALL, LARGE)
    made.counted(ask(500), 1)
    assert made.tokens_of(ask(8000)) == pytest.approx(2000, rel=0.01)
