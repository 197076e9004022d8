"""The `openai` package against two real llama.cpp servers, through the balancer."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.fakes.balancer import Running, balancer, eventually
from tests.fakes.llama_cpp import AVAILABLE, llama_cpp, write_tiny_model
from tests.fakes.ports import free_port

pytestmark = [
    pytest.mark.skipif(not AVAILABLE, reason="xllamacpp has no wheel for this machine"),
    pytest.mark.timeout(120),
]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder: Path = tmp_path_factory.mktemp("models")
    model = folder / "tiny.gguf"
    write_tiny_model(model)
    with llama_cpp(model, free_port()) as a, llama_cpp(model, free_port()) as b:
        yield {"A": a, "B": b}


@pytest.fixture(scope="module")
def running(servers: dict[str, str]) -> Iterator[Running]:
    configured = {name: {"addr": url, "request_max": 1} for name, url in servers.items()}
    with balancer(configured, {"tiny.*": ["A", "B"]}) as found:
        yield found


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def ask(client: openai.OpenAI, user: str, *turns: str, max_tokens: int = 8) -> ChatCompletion:
    messages = [{"role": "system", "content": f'The user\'s name is "{user}". ' * 8}]
    for number, turn in enumerate(turns):
        messages.append({"role": ("user", "assistant")[number % 2], "content": turn})
    return client.chat.completions.create(
        model="tiny",
        messages=messages,  # type: ignore[arg-type]
        max_tokens=max_tokens,
    )


def pinned_to(running: Running, user: str) -> str:
    pins = {pin["key"]: pin["server"] for pin in running.snapshot()["sticky"]}
    server: str = pins[user]
    return server


def test_a_plain_answer_comes_whole(client: openai.OpenAI) -> None:
    answer = ask(client, "plain", "hello")

    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8


def test_a_stream_comes_token_by_token_with_its_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)

    deltas = [
        c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content
    ]
    assert len(deltas) > 1
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens == 20


def test_a_stream_that_is_cancelled_stops_the_model(
    client: openai.OpenAI, running: Running, servers: dict[str, str]
) -> None:
    stream = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "tell me everything"}],
        max_tokens=3_500,
        stream=True,
    )
    next(stream)
    stream.close()

    eventually(lambda: running.in_flight() == 0)
    eventually(lambda: not any(busy_slots(url) for url in servers.values()))


def busy_slots(url: str) -> int:
    return sum(slot["is_processing"] for slot in httpx.get(f"{url}/slots").json())


def test_a_second_turn_finds_its_prompt_cache(client: openai.OpenAI, running: Running) -> None:
    first = ask(client, "alice", "what is a llama?")
    server = pinned_to(running, "alice")
    said = first.choices[0].message.content or ""
    ask(client, "bob", "something else")

    second = ask(client, "alice", "what is a llama?", said, "and an alpaca?")

    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    cached = second.usage.prompt_tokens_details.cached_tokens or 0
    assert first.usage is not None
    assert cached > 0.9 * first.usage.prompt_tokens
    assert pinned_to(running, "alice") == server


def test_eight_at_once_all_succeed_and_no_server_gets_two(
    client: openai.OpenAI, running: Running, servers: dict[str, str]
) -> None:
    ended = threading.Event()
    peaks: list[int] = []

    def watch() -> None:
        while not ended.is_set():
            peaks.extend(busy_slots(url) for url in servers.values())
            peaks.extend(b["total_inflight"] for b in running.snapshot()["backends"])

    with ThreadPoolExecutor(9) as pool:
        watching = pool.submit(watch)
        asked = [pool.submit(ask, client, f"user{n}", "hello", max_tokens=300) for n in range(8)]
        answers = [future.result() for future in asked]
        ended.set()
        watching.result()

    assert all(answer.usage and answer.usage.completion_tokens == 300 for answer in answers)
    assert max(peaks) == 1
    assert {pinned_to(running, f"user{n}") for n in range(8)} == {"A", "B"}


def test_the_models_of_all_servers_are_listed_once(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_an_unknown_model_goes_to_the_fallback(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="whatever", messages=[{"role": "user", "content": "hi"}], max_tokens=2
    )

    assert answer.choices[0].message.content


def test_a_mistake_reads_as_the_package_expects(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="model must be a string"):
        client.chat.completions.create(model=5, messages=[])  # type: ignore[call-overload]


def test_every_request_was_counted(running: Running) -> None:
    metrics = httpx.get(f"{running.url}/metrics").text
    stats = httpx.get(f"{running.url}/access-log-stats").json()

    assert 'llama_balancer_requests_total{endpoint="/v1/chat/completions",model="tiny"' in metrics
    assert stats["total_requests"] >= 8
    assert {"alice", "bob"} <= set(stats["username_counts"])


def counted(running: Running, family: str) -> float:
    """Sum a family of our metrics up, over all servers."""
    lines = httpx.get(f"{running.url}/metrics").text.splitlines()
    name = f"llama_balancer_{family}{{"
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_the_tokens_that_are_counted_are_those_that_the_server_reports(
    client: openai.OpenAI, running: Running
) -> None:
    families = ("prompt_tokens_total", "prompt_tokens_cached_total", "completion_tokens_total")
    before = [counted(running, family) for family in families]
    usages = [ask(client, "carol", "how many?").usage for _ in range(2)]
    after = [counted(running, family) for family in families]

    told = [usage for usage in usages if usage is not None]
    assert [new - old for old, new in zip(before, after, strict=True)] == [
        sum(usage.prompt_tokens for usage in told),
        sum((d.cached_tokens or 0) for usage in told if (d := usage.prompt_tokens_details)),
        sum(usage.completion_tokens for usage in told),
    ]


def test_a_stream_that_was_not_asked_for_its_usage_is_counted_by_its_timings(
    client: openai.OpenAI, running: Running
) -> None:
    families = ("completion_tokens_total", "time_to_first_token_seconds_count")
    before = [counted(running, family) for family in families]
    stream = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "how many?"}],
        max_tokens=20,
        stream=True,
    )
    assert not any(chunk.usage for chunk in stream)

    after = [counted(running, family) for family in families]
    assert [new - old for old, new in zip(before, after, strict=True)] == [20, 1]


def test_a_server_that_dies_is_replaced_without_any_client_noticing(
    servers: dict[str, str], tmp_path: Path
) -> None:
    model = tmp_path / "tiny.gguf"
    write_tiny_model(model)
    with contextlib.ExitStack() as mortal:
        dying = mortal.enter_context(llama_cpp(model, free_port()))
        configured = {"dying": {"addr": dying}, "A": {"addr": servers["A"]}}
        with (
            balancer(configured, {"tiny.*": ["dying", "A"]}, probe_interval=60) as found,
            openai.OpenAI(base_url=f"{found.url}/v1", api_key="x", max_retries=0) as client,
        ):
            assert ask(client, "alice", "hi").choices
            assert pinned_to(found, "alice") == "dying"
            mortal.close()

            for name in ("alice", "bob", "alice"):
                assert ask(client, name, "hi").choices
            assert pinned_to(found, "alice") == "A"
