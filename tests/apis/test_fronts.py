import json

from hypothesis import given
from hypothesis import strategies as st

from app.apis.fronts import CONVERSATIONS, LIFETIME, LONGEST, ROOM, Fronts
from app.apis.stable_prompts import known
from tests.fakes.clock import Clock

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def fronts(clock: Clock | None = None) -> tuple[Fronts, list[tuple[str, int, int]]]:
    told: list[tuple[str, int, int]] = []
    return Fronts(clock or Clock(), lambda *about: told.append(about)), told


def body(clock: str, said: str = "hi") -> bytes:
    messages = [{"role": "user", "content": said}]
    return json.dumps({"system": f"It is {clock}.", "messages": messages}).encode()


def test_a_span_is_held_for_a_while_and_then_goes_on_from_what_it_is() -> None:
    clock = Clock()
    held, told = fronts(clock)
    assert held.settle(body("15:00"), "a") == body("15:00")
    clock.tick(LIFETIME - 1)
    assert held.settle(body("15:09"), "a") == body("15:00")
    clock.tick(1)

    assert held.settle(body("15:10"), "a") == body("15:10")
    assert held.settle(body("15:11"), "a") == body("15:10")
    assert told == [("a", 0, len('"It is 15:0'))]


def test_each_client_has_its_own() -> None:
    held, _ = fronts()
    held.settle(body("15:00"), "a")

    assert held.settle(body("15:01"), "b") == body("15:01")


def test_only_so_many_are_remembered() -> None:
    held, _ = fronts()
    held.settle(body("15:00"), "a")
    for number in range(CONVERSATIONS):
        held.settle(body("15:00", str(number)), "a")

    assert held.settle(body("15:01"), "a") == body("15:01")


@given(st.lists(st.dictionaries(st.sampled_from(["system", "messages", "input"]), json_values)))
def test_any_body_stays_json_and_keeps_its_messages(bodies: list[dict[str, object]]) -> None:
    held, _ = fronts()
    for one in bodies:
        settled = json.loads(held.settle(json.dumps(one).encode(), "a"))
        assert settled.keys() == one.keys()


@given(st.binary())
def test_what_is_no_json_stays_as_it_is(raw: bytes) -> None:
    assert fronts()[0].settle(raw, "a") == raw


def test_the_texts_of_many_conversations_have_a_bound_together() -> None:
    held, _ = fronts()
    for number in range(100):
        said = [{"role": "user", "content": f"hi {number}"}]
        raw = json.dumps({"system": "x" * (LONGEST - 10), "messages": said}).encode()
        assert held.settle(raw, "a") == raw

    assert sum(front.size for front in held._fronts.values()) <= ROOM
    assert len(held._fronts) > 50


@given(st.integers(0, 400))
def test_a_body_that_breaks_off_stays_as_it_is(end: int) -> None:
    line = "x-anthropic-billing-header: cch=1;\nBe brief."
    blocks = [{"type": "text", "text": line}]
    messages = [{"role": "developer", "content": blocks}, {"role": "user", "content": "hi"}]
    raw = json.dumps({"model": "m", "messages": messages, "instructions": line}).encode()
    broken = raw[: min(end, len(raw) - 1)]

    assert known(broken) == broken
    assert fronts()[0].settle(broken, "me") == broken
