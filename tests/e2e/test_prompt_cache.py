"""Conversations on real llama.cpp servers: each keeps the slot that holds its prompt."""

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.balancer import Running, balancer, eventually
from tests.fakes.conversation import SYSTEM, Conversation
from tests.fakes.llama_cpp import AVAILABLE, llama_cpp, write_tiny_model
from tests.fakes.ports import free_port

pytestmark = [
    pytest.mark.skipif(not AVAILABLE, reason="xllamacpp has no wheel for this machine"),
    pytest.mark.timeout(120),
]

CHAT = "/v1/chat/completions"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """Two servers of two slots, of which the balancer is told neither kind nor limit."""
    model = tmp_path / "tiny.gguf"
    write_tiny_model(model)
    with llama_cpp(model, free_port()) as a, llama_cpp(model, free_port()) as b:
        servers = {"A": {"addr": a}, "B": {"addr": b}}
        with balancer(servers, {"tiny.*": ["A", "B"]}) as found:
            eventually(lambda: backends(found, "kind") == ["llamacpp"] * 2)
            yield found


def backends(running: Running, key: str) -> list[Any]:
    """Read one fact of each server."""
    return [backend[key] for backend in running.snapshot()["backends"]]


def test_conversations_behind_one_address_keep_a_slot_each(running: Running) -> None:
    people = [Conversation(running.url, name) for name in ("Alice", "Bob", "Carol", "Dan")]
    before = {one: one.say("hello")[0] for one in people}
    assert sorted(one.place[0] for one in people) == ["A", "A", "B", "B"]

    for text in ("and then", "and after that"):
        for one in reversed(people):
            prompt, cached = one.say(text)

            assert one.place[1] == "cached_prompt"
            assert cached >= 0.98 * before[one]
            before[one] = prompt

    eventually(lambda: sum(told["hit"] for told in backends(running, "forecasts")) == 8)
    assert backends(running, "request_max") == [2, 2]


@pytest.mark.parametrize(
    ("front", "setting"),
    [
        ("It is 15:0{}:20.\n", "learn"),
        ("x-anthropic-billing-header: cc_version=2.1; cch=a{}1f0;\n", "known"),
    ],
)
def test_a_front_that_changes_costs_no_cache(tmp_path: Path, front: str, setting: str) -> None:
    model = tmp_path / "tiny.gguf"
    write_tiny_model(model)
    with llama_cpp(model, free_port()) as url:
        with balancer({"A": {"addr": url}}, {"tiny.*": ["A"]}, stable_prompts=setting) as found:
            eventually(lambda: backends(found, "kind") == ["llamacpp"])
            people = [Conversation(found.url, name) for name in ("Alice", "Bob")]
            before = dict.fromkeys(people, 0)
            for turn in range(3):
                for one in people:
                    one.front(front.format(turn))
                    prompt, cached = one.say(f"turn {turn}")
                    assert cached >= 0.98 * before[one]
                    before[one] = prompt


@pytest.mark.parametrize("slots", [1, 2])
def test_two_agents_at_once_take_turns_at_one_slot_and_keep_two(tmp_path: Path, slots: int) -> None:
    model = tmp_path / "tiny.gguf"
    write_tiny_model(model)
    with llama_cpp(model, free_port(), slots=slots) as url:
        with balancer({"A": {"addr": url}}, {"tiny.*": ["A"]}) as found:
            eventually(lambda: backends(found, "kind") == ["llamacpp"])
            agents = [Conversation(found.url, name) for name in ("Alice", "Bob")]

            def work(agent: Conversation) -> list[tuple[int, int]]:
                return [agent.say(f"turn {turn}") for turn in range(4)]

            with ThreadPoolExecutor() as pool:
                told = list(pool.map(work, agents))

            assert backends(found, "request_max") == [slots]

    if slots == 2:
        for turns in told:
            for (before, _), (_, cached) in itertools.pairwise(turns):
                assert cached >= 0.98 * before


def test_a_prompt_in_memory_goes_to_a_slot_for_which_the_server_looks_there(tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    write_tiny_model(model)
    with llama_cpp(model, free_port(), slots=2) as url:
        with balancer({"A": {"addr": url}}, {"tiny.*": ["A"]}) as found:
            eventually(lambda: backends(found, "kind") == ["llamacpp"])
            names = ("Alice", "Bob", "Carol", "Dan")
            alice, bob, carol, dan = (Conversation(found.url, name) for name in names)
            before, _ = alice.say("I was in the woods " * 11)
            bob.say("she went to sea " * 13)
            dan.say("hi")  # most of his prompt is the system prompt: nothing is looked for there
            carol.say("he stays at home " * 12)
            _, cached = alice.say("go on")
            assert cached >= 0.98 * before


def test_a_client_that_gives_up_and_asks_again_gets_there_in_the_end(running: Running) -> None:
    def ask(text: str, patience: float) -> httpx.Response:
        body = {"model": "tiny", "max_tokens": 4, "messages": [{"role": "user", "content": text}]}
        return httpx.post(f"{running.url}{CHAT}", json=body, timeout=patience).raise_for_status()

    began = time.monotonic()
    ask("other " * 480, 60)
    patience = (time.monotonic() - began) / 3  # a third of what it takes to read such a prompt

    places = []
    for _ in range(30):
        try:
            answer = ask("wordy " * 480, patience)
        except httpx.ReadTimeout:
            last = running.snapshot()["decisions"][0]
            places.append((last["server"], last["slot"]))
        else:
            break

    assert answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 1000
    assert places
    assert {*places} == {places[0]}


def test_anthropic_s_messages_are_routed_and_keep_their_slot_too(tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    write_tiny_model(model)
    with llama_cpp(model, free_port()) as url:
        servers = {"A": {"addr": url}}
        with balancer(servers, {"tiny.*": ["A"]}, routed_paths="/v1/messages") as found:
            eventually(lambda: backends(found, "kind") == ["llamacpp"])
            said: list[dict[str, str]] = []
            for text in ("hello", "and then"):
                said.append({"role": "user", "content": text})
                body = {"model": "tiny", "max_tokens": 8, "system": SYSTEM, "messages": said}
                answer = httpx.post(f"{found.url}/v1/messages", json=body, timeout=60)
                told = answer.raise_for_status().json()
                said.append({"role": "assistant", "content": told["content"][0]["text"]})
            assert answer.headers["x-balancer-reason"] == "cached_prompt"
            assert told["usage"]["cache_read_input_tokens"] > len(SYSTEM)
            eventually(lambda: backends(found, "forecasts")[0]["hit"] == 1)


def test_an_explanation_agrees_with_what_happens(running: Running) -> None:
    alice = Conversation(running.url, "Alice")
    alice.say("hello")

    told = httpx.post(f"{running.url}/llmhealth-explain", json=alice.body("again")).json()
    alice.say("again")

    assert (told["choice"]["server"], told["choice"]["reason"]) == alice.place
    assert told["choice"]["slot"] == running.snapshot()["decisions"][0]["slot"] == 0
