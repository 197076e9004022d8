"""What model servers tell of themselves, and what is made of it."""

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.routing.observations import SelfReport
from app.upstream.introspection.introspection import KINDS, LOOK_AGAIN, Introspection
from app.upstream.introspection.llama_cpp import METRICS_LET_SLEEP
from app.upstream.introspection.pages import Get, Silent
from tests.fakes.clock import Clock
from tests.fakes.kinds import LLAMA_CPP, LLAMA_SWAP, OLLAMA, VLLM
from tests.fakes.llama_cpp import AVAILABLE, CONTEXT, llama_cpp, write_tiny_model
from tests.fakes.ports import free_port

pytestmark = pytest.mark.anyio

LOADING = (503, b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}')
SLOTS = [{"id": 0, "is_processing": False}, {"id": 1, "is_processing": True}]
PROPS = {"total_slots": 2, "model_path": "x.gguf"}


class Pages:
    """A server with some pages, of which it notes who asked for them."""

    def __init__(self, pages: Mapping[str, object]) -> None:
        self.pages = dict(pages)
        self.asked: list[str] = []

    async def get(self, path: str) -> tuple[int, bytes]:
        self.asked.append(path)
        page = self.pages.get(path, (404, b"not found"))
        if isinstance(page, Silent):
            raise page
        if isinstance(page, tuple):
            return page
        return 200, page if isinstance(page, bytes) else json.dumps(page).encode()


async def told(kind: str, pages: Mapping[str, object]) -> SelfReport | None:
    return await Introspection("A", kind, Clock()).report(Pages(pages).get)


async def test_llama_cpp_tells_its_slots_and_which_are_at_work() -> None:
    assert await told("llamacpp", {"/slots": SLOTS}) == SelfReport(
        "A", LLAMA_CPP, slots=2, busy_slots=frozenset({1}), active=1
    )


async def test_llama_cpp_without_slots_tells_how_many_there_are_and_what_is_at_work() -> None:
    metrics = b"# HELP\nllamacpp:requests_processing 1\nllamacpp:requests_deferred 3\n"

    assert await told("llamacpp", {"/props": PROPS, "/metrics": metrics}) == SelfReport(
        "A", LLAMA_CPP, slots=2, active=4
    )


async def test_how_many_slots_there_are_is_remembered_while_for_once_it_is_not_told() -> None:
    server = Pages({"/props": PROPS, "/slots": SLOTS})
    introspection = Introspection("A", "llamacpp", Clock())
    await introspection.report(server.get)
    server.pages = {}

    assert await introspection.report(server.get) == SelfReport("A", LLAMA_CPP, slots=2)

    introspection.forget()
    assert await introspection.report(server.get) == SelfReport("A", LLAMA_CPP)


async def test_a_server_of_no_slots_does_not_tell_how_many_there_are() -> None:
    assert await told("llamacpp", {"/props": {"total_slots": 0}}) == SelfReport("A", LLAMA_CPP)


SLEEPER = {
    **PROPS,
    "endpoint_slots": True,
    "is_sleeping": False,
    "build_info": f"b{METRICS_LET_SLEEP}-1234abcd",
}
REST = SelfReport("A", LLAMA_CPP, slots=2, busy_slots=frozenset(), active=0)
AT_WORK = SelfReport("A", LLAMA_CPP, slots=2, busy_slots=frozenset({1}), active=1)
IDLE_SLOTS = [{"id": 0, "is_processing": False}, {"id": 1, "is_processing": False}]


async def test_a_llama_cpp_that_sleeps_is_not_woken_and_has_no_model_in_memory() -> None:
    server = Pages({"/props": {**SLEEPER, "is_sleeping": True}, "/slots": SLOTS})

    report = await Introspection("A", "auto", Clock()).report(server.get)

    assert report == replace(REST, loaded=frozenset())
    assert "/slots" not in server.asked


async def test_a_llama_cpp_that_may_fall_asleep_is_not_kept_awake() -> None:
    server = Pages({"/props": SLEEPER, "/slots": IDLE_SLOTS})
    introspection = Introspection("A", "llamacpp", Clock())
    assert await introspection.report(server.get) == REST
    server.asked.clear()

    assert await introspection.report(server.get) == REST
    assert "/slots" not in server.asked


@pytest.mark.parametrize("build", [None, "b10000-1234abcd", "unknown", 7])
async def test_a_llama_cpp_whose_metrics_keep_it_awake_is_not_asked_for_them(build: object) -> None:
    server = Pages({"/props": {**SLEEPER, "build_info": build}, "/slots": IDLE_SLOTS})
    introspection = Introspection("A", "llamacpp", Clock())
    await introspection.report(server.get)
    server.asked.clear()

    assert await introspection.report(server.get) == REST
    assert server.asked == ["/props"]


@pytest.mark.parametrize("in_use", [True, False])
async def test_a_llama_cpp_at_work_is_asked_for_its_slots_until_it_rests(*, in_use: bool) -> None:
    server = Pages({"/props": SLEEPER, "/slots": IDLE_SLOTS})
    introspection = Introspection("A", "llamacpp", Clock())
    await introspection.report(server.get)
    server.pages["/slots"] = SLOTS
    if not in_use:
        server.pages["/metrics"] = b"llamacpp:requests_processing 1\n"

    assert await introspection.report(server.get, in_use=in_use) == AT_WORK
    server.pages.pop("/metrics", None)
    assert await introspection.report(server.get) == AT_WORK


async def test_llama_cpp_as_a_router_tells_which_models_are_loaded() -> None:
    states = {"a": "loaded", "b": "sleeping", "c": "loading", "d": "unloaded", "e": None}
    models = {"data": [{"id": x, "status": {"value": state}} for x, state in states.items()]}

    assert await told("llamacpp", {"/props": {"role": "router"}, "/models": models}) == SelfReport(
        "A",
        LLAMA_CPP,
        loaded=frozenset({"a", "b"}),
        starting=frozenset({"c"}),
        asleep=frozenset({"b"}),
    )


async def test_a_llama_cpp_that_loads_its_model_is_not_dead() -> None:
    assert await told("llamacpp", {"/slots": LOADING}) == SelfReport("A", LLAMA_CPP, loading=True)
    assert await told("auto", {"/props": LOADING, "/slots": LOADING}) == SelfReport(
        "A", LLAMA_CPP, loading=True
    )


@pytest.mark.parametrize(
    ("kind", "pages", "report"),
    [
        (
            "ollama",
            {"/api/ps": {"models": [{"name": "qwen3:8b", "model": "qwen3:8b"}]}},
            SelfReport("A", OLLAMA, loaded=frozenset({"qwen3:8b"})),
        ),
        (
            "llama-swap",
            {
                "/running": {
                    "running": [
                        {"model": "a", "state": "ready"},
                        {"model": "b"},
                        {"model": "c", "state": "starting"},
                    ]
                }
            },
            SelfReport("A", LLAMA_SWAP, loaded=frozenset({"a"}), starting=frozenset({"c"})),
        ),
        (
            "lmstudio",
            {"/api/v0/models": {"data": [{"id": "a", "state": "loaded"}, {"id": "b"}]}},
            SelfReport("A", KINDS["lmstudio"].kind, loaded=frozenset({"a"})),
        ),
        (
            "vllm",
            {
                "/metrics": b'vllm:num_requests_running{model_name="m"} 3.0\n'
                b'vllm:num_requests_waiting{model_name="m",engine="0"} 2.0\n'
                b'vllm:num_requests_waiting_x{a="b"} 7.0\n'
            },
            SelfReport("A", VLLM, active=5),
        ),
        (
            "llamacpp",
            {"/slots": SLOTS, "/props": PROPS},
            SelfReport("A", LLAMA_CPP, slots=2),
        ),
        ("openai", {}, None),
    ],
)
async def test_each_kind_tells_its_own_and_is_found_by_it(
    kind: str, pages: Mapping[str, object], report: SelfReport | None
) -> None:
    by_name, found = await told(kind, pages), await told("auto", pages)

    assert found == by_name
    if report is None or kind != "llamacpp":
        assert found == report


async def test_another_balancer_is_taken_for_no_more_than_an_api() -> None:
    pages = {"/llmhealth-snapshot": {"backends": [{}]}, "/props": PROPS, "/slots": SLOTS}

    assert await told("auto", pages) is None


async def test_a_kind_is_found_once_and_looked_for_again_after_an_outage() -> None:
    server = Pages({"/api/ps": {"models": []}})
    introspection = Introspection("A", "auto", Clock())
    await introspection.report(server.get)
    server.asked.clear()
    await introspection.report(server.get)
    assert server.asked == ["/api/ps"]

    introspection.forget()
    server.pages = {"/running": {"running": []}}

    assert await introspection.report(server.get) == SelfReport("A", LLAMA_SWAP, loaded=frozenset())


async def test_what_seemed_nothing_particular_is_looked_at_again_later() -> None:
    server, clock = Pages({}), Clock()
    introspection = Introspection("A", "auto", clock)
    assert await introspection.report(server.get) is None
    server.pages = {"/api/ps": {"models": []}}
    assert await introspection.report(server.get) is None

    clock.tick(LOOK_AGAIN)

    assert await introspection.report(server.get) is not None


async def test_a_server_of_which_a_page_was_silent_may_still_be_something_particular() -> None:
    server = Pages({"/props": Silent()})
    introspection = Introspection("A", "auto", Clock())
    with pytest.raises(Silent):
        await introspection.report(server.get)

    server.pages = {"/props": PROPS, "/slots": SLOTS}

    assert await introspection.report(server.get) == AT_WORK


async def test_one_silent_page_does_not_stop_the_search() -> None:
    pages = {"/props": Silent(), "/api/ps": {"models": []}}

    assert await told("auto", pages) == SelfReport("A", OLLAMA, loaded=frozenset())


@pytest.mark.parametrize("kind", ["ollama", "llama-swap", "lmstudio"])
async def test_an_error_does_not_say_that_no_model_is_in_memory(kind: str) -> None:
    async def get(_: str) -> tuple[int, bytes]:
        return 500, b'{"error":"busy"}'

    with pytest.raises(Silent):
        await Introspection("A", kind, Clock()).report(get)


async def test_a_vllm_server_whose_engine_does_not_run_gets_no_requests() -> None:
    async def get(path: str) -> tuple[int, bytes]:
        return (503, b"") if path == "/health" else (200, b"vllm:num_requests_running 0\n")

    introspection = Introspection("A", "vllm", lambda: 0.0)

    assert await introspection.report(get) == SelfReport("A", VLLM, loading=True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "running", "models", "data", "state", "status", "total_slots"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
ANSWERS = st.tuples(
    st.sampled_from([200, 404, 500, 503]),
    st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode()),
)


@given(st.sampled_from(["auto", *KINDS]), ANSWERS)
async def test_any_answer_is_a_report_or_none_or_silence(
    kind: str, answer: tuple[int, bytes]
) -> None:
    async def get(_: str) -> tuple[int, bytes]:
        return answer

    with contextlib.suppress(Silent):
        report = await Introspection("A", kind, Clock()).report(get)
        assert report is None or isinstance(report, SelfReport)


@contextlib.asynccontextmanager
async def real_llama_cpp(folder: Path, slots: int, sleep_after: int = -1) -> AsyncIterator[Get]:
    model = folder / "tiny.gguf"
    write_tiny_model(model)
    with llama_cpp(model, free_port(), slots=slots, sleep_after=sleep_after) as url:
        async with httpx.AsyncClient(base_url=url) as client:

            async def get(path: str) -> tuple[int, bytes]:
                answer = await client.get(path)
                return answer.status_code, answer.content

            yield get


@pytest.mark.skipif(not AVAILABLE, reason="needs xllamacpp and gguf")
async def test_a_real_llama_cpp_is_found_with_its_slots(tmp_path: Path) -> None:
    async with real_llama_cpp(tmp_path, slots=3) as get:
        report = await Introspection("A", "auto", Clock()).report(get)

    assert report == replace(REST, slots=3, contexts={"": CONTEXT})


@pytest.mark.skipif(not AVAILABLE, reason="needs xllamacpp and gguf")
async def test_a_real_llama_cpp_falls_asleep_while_it_is_asked_and_stays_so(tmp_path: Path) -> None:
    introspection = Introspection("A", "auto", Clock())
    rest = replace(REST, contexts={"": CONTEXT})
    async with real_llama_cpp(tmp_path, slots=2, sleep_after=1) as get:
        with anyio.fail_after(20):
            while await introspection.report(get) == rest:
                pass
        assert await introspection.report(get) == replace(rest, loaded=frozenset())
