import asyncio
import random
import shutil
import subprocess
import time

import pytest

from app.routing.balancer import Balancer
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.health_window import Sample
from app.routing.ledger import Lease
from app.routing.observations import HealthSeen, ModelsSeen, ProbeFailed, SelfReport
from app.telemetry.gpu.reader import Gpu, NoReader
from app.telemetry.gpu.sampler import GpuSampler
from app.telemetry.instrument import LONGEST_LABEL
from app.telemetry.metrics import Metrics
from app.telemetry.record import STAGES, Outcome, Record
from app.telemetry.response_reader import ResponseReader
from tests.fakes import records
from tests.fakes.clock import Clock
from tests.fakes.gpu import OneGpu
from tests.fakes.kinds import LLAMA_CPP

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"


def fleet_balancer(servers: int = 2, models: int = 1) -> Balancer:
    some = [Server(f"PC{n}", f"http://pc{n}", None, 2) for n in range(servers)]
    fleet = Fleet.of(some, {"m.*": [server.name for server in some]})
    balancer = Balancer(fleet, clock=Clock())
    for name in fleet.servers:
        balancer.observe(ModelsSeen(name, [f"m{n}" for n in range(models)]))
    return balancer


def metrics(
    balancer: Balancer | None = None,
    sampler: GpuSampler | None = None,
    waiting: dict[str, int] | None = None,
) -> Metrics:
    return Metrics(
        balancer or fleet_balancer(),
        sampler or GpuSampler(NoReader()),
        waiting=lambda: waiting or {},
        in_flight=lambda: {CHAT: 2},
        version="9.9",
    )


def answer(*pieces: bytes, streams: bool = False) -> ResponseReader:
    seen = ResponseReader(streams=streams)
    for piece in pieces:
        seen.passes(piece)
    return seen


def record(outcome: Outcome | None = "success", model: str = "m0", **facts: object) -> Record:
    settings: dict[str, object] = {
        "server": "PC0",
        "instance": model,
        "reason": "sticky",
        "ready": 0.6,
        "waited": 0.2,
        "sent": 1.0,
        "first_byte": 1.5,
        "ended": 3.0,
        "status": 200,
        "size": 100,
        "response": answer(b'{"usage": {"prompt_tokens": 9, "completion_tokens": 4}}'),
        **facts,
    }
    return records.record(started=0.5, model=model, outcome=outcome, **settings)  # type: ignore[arg-type]


def unsent(outcome: Outcome | None, **facts: object) -> Record:
    nothing = {"server": "", "reason": "", "instance": "", "sent": None, "response": None}
    return record(outcome, **{**nothing, "first_byte": None, "status": 0, **facts})  # type: ignore[arg-type]


async def told(found: Metrics, *records: Record) -> dict[str, float]:
    """Give the value of every series, without the prefix."""
    for each in records:
        found.finished(each)
    series = {}
    for line in (await found.render("text/plain")).decode().splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            series[name.removeprefix("llama_balancer_")] = float(value)
    return series


async def test_a_finished_request_is_counted_and_timed() -> None:
    series = await told(metrics(), record())

    key = f'endpoint="{CHAT}",model="m0"'
    where = 'model="m0",server="PC0"'
    expected = {
        f'requests_total{{{key},outcome="success",stream="false"}}': 1,
        'request_duration_seconds_sum{model="m0"}': 2.5,
        'queue_wait_seconds_sum{model="m0"}': 0.2,
        'time_to_first_byte_seconds_sum{server="PC0"}': 0.5,
        'upstream_duration_seconds_sum{server="PC0"}': 2,
        'routing_decisions_total{reason="sticky",server="PC0"}': 1,
        'upstream_responses_total{code="2xx",server="PC0"}': 1,
        'request_body_bytes_total{server="PC0"}': 100,
        'response_body_bytes_total{server="PC0"}': 55,
        f"prompt_tokens_total{{{where}}}": 9,
        f"prompt_tokens_cached_total{{{where}}}": 0,
        f"completion_tokens_total{{{where}}}": 4,
        'request_prompt_tokens_bucket{le="256.0",model="m0"}': 1,
        'request_completion_tokens_bucket{le="16.0",model="m0"}': 1,
        'usage_reports_total{model="m0",result="present",server="PC0"}': 1,
    }
    assert {name: series[name] for name in expected} == expected
    assert series["overhead_seconds_sum"] == pytest.approx(0.2)


async def test_a_stream_tells_its_first_token_and_its_pauses() -> None:
    event = b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'
    seen = answer(event, event, event, streams=True)
    seen.first_token = 2.0
    series = await told(metrics(), record(stream=True, response=seen))

    assert series['time_to_first_token_seconds_sum{model="m0"}'] == 1.5
    assert series['inter_token_seconds_count{model="m0"}'] == 2
    assert series['stream_max_gap_seconds_count{model="m0"}'] == 1
    assert series['usage_reports_total{model="m0",result="missing",server="PC0"}'] == 1


async def test_the_time_of_a_request_is_told_by_what_it_went_into() -> None:
    event = b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'
    seen = answer(event, streams=True)
    seen.first_token = 2.25
    stream = record(stream=True, response=seen)  # in the queue for 0.2 s, sent at 1 s
    assert stream.lease is not None
    stream.lease.load = 1.0
    series = await told(metrics(), stream, record(), unsent("rejected", waited=30.0))

    family = 'request_seconds_total{model="m0",phase='
    spent = {phase: f'{family}"{phase}"}}' for phase in STAGES}
    assert series[spent["queue"]] == pytest.approx(30.4)
    assert series[spent["load"]] == 1
    assert series[spent["prompt"]] == 0.25
    assert series[spent["answer"]] == 0.75 + 2  # the other one told nothing of its prompt


async def test_a_stream_in_one_piece_has_no_longest_pause() -> None:
    event = b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'
    series = await told(metrics(), record(stream=True, response=answer(event, streams=True)))

    assert series['time_to_first_token_seconds_count{model="m0"}'] == 1
    assert series['stream_max_gap_seconds_count{model="m0"}'] == 0


async def test_no_usage_is_missed_where_nothing_is_generated() -> None:
    told_nothing = record(response=answer(b'{"input_tokens": 12}'))
    told_nothing.endpoint = "/v1/messages/count_tokens"
    series = await told(metrics(), told_nothing)

    assert series['usage_reports_total{model="m0",result="missing",server="PC0"}'] == 0


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        ("success", "empty"),
        ("client_disconnect", "disconnect"),
        ("timeout", "timeout"),
        ("upstream_error", "error"),
    ],
)
async def test_a_stream_without_a_token_is_counted_with_its_end(
    outcome: Outcome, reason: str
) -> None:
    seen = answer(b": nothing yet\n\n", streams=True)
    series = await told(metrics(), record(outcome, stream=True, response=seen))

    assert series[f'streams_without_token_total{{model="m0",reason="{reason}"}}'] == 1


@pytest.mark.parametrize(
    "outcome",
    ["client_error", "upstream_error", "timeout", "rejected", "client_disconnect", None],
)
async def test_every_outcome_is_told_apart(outcome: Outcome | None) -> None:
    series = await told(metrics(), record(outcome))

    label = outcome or "internal_error"
    assert any(f'outcome="{label}"' in name for name in series)


async def test_what_a_server_did_wrong_is_counted_with_a_word_for_it() -> None:
    series = await told(
        metrics(),
        record(failures=("PC1",), faults=("connect_timeout",)),
        record("upstream_error", fault="reset"),
        record("timeout", fault="read_timeout"),
        record("upstream_error", status=503),
    )

    for server, reason in (
        ("PC1", "connect_timeout"),
        ("PC0", "reset"),
        ("PC0", "read_timeout"),
        ("PC0", "status_5xx"),
    ):
        assert series[f'upstream_errors_total{{reason="{reason}",server="{server}"}}'] == 1
    assert series['upstream_errors_total{reason="protocol",server="PC0"}'] == 0
    assert series['retries_total{reason="connect_timeout",server="PC1"}'] == 1
    assert series['failovers_total{from_server="PC1",to_server="PC0"}'] == 1
    assert series['upstream_responses_total{code="5xx",server="PC0"}'] == 1


async def test_an_attempt_that_was_the_last_one_is_no_retry() -> None:
    gave_up = unsent(
        "upstream_error",
        server="PC0",
        reason="idle",
        failures=("PC1", "PC0"),
        faults=("connect", "connect"),
        fault="connect",
    )
    series = await told(metrics(), gave_up)

    assert series['retries_total{reason="connect",server="PC1"}'] == 1
    assert series['retries_total{reason="connect",server="PC0"}'] == 0
    assert series['upstream_errors_total{reason="connect",server="PC0"}'] == 1
    assert series['retries_exhausted_total{model="m0"}'] == 1


async def test_requests_that_no_server_got_are_counted_with_the_reason() -> None:
    series = await told(
        metrics(),
        unsent("rejected", rejection="queue_full"),
        unsent("rejected", rejection="queue_timeout"),
        unsent("client_error", rejection="no_route"),
    )

    for reason in ("queue_full", "queue_timeout", "no_route"):
        assert series[f'routing_rejections_total{{model="m0",reason="{reason}"}}'] == 1
    assert not any('server=""' in name for name in series)


@pytest.mark.parametrize(
    ("left", "phase"),
    [
        (unsent("client_disconnect"), "queued"),
        (record("client_disconnect", first_byte=None, response=None), "waiting"),
        (record("client_disconnect"), "streaming"),
    ],
)
async def test_when_a_client_left_is_told(left: Record, phase: str) -> None:
    series = await told(metrics(), left)

    assert series[f'client_disconnects_total{{model="m0",phase="{phase}"}}'] == 1


async def test_a_request_that_is_turned_away_at_once_is_no_wait_of_nothing() -> None:
    series = await told(
        metrics(),
        unsent("rejected", rejection="queue_full"),
        unsent("rejected", rejection="queue_timeout", waited=30.0),
    )

    assert series['queue_wait_seconds_sum{model="m0"}'] == 30
    assert series['queue_wait_seconds_count{model="m0"}'] == 1


async def test_what_may_go_wrong_begins_at_zero() -> None:
    series = await told(metrics(), record())

    for name in (
        'routing_rejections_total{model="m0",reason="queue_full"}',
        'client_disconnects_total{model="m0",phase="streaming"}',
        'upstream_responses_total{code="5xx",server="PC1"}',
    ):
        assert series[name] == 0


async def test_names_that_clients_make_up_are_other() -> None:
    series = await told(metrics(), *(record(model=f"made-up-{n}") for n in range(50)))

    assert not any("made-up" in name for name in series)
    assert series['label_values_dropped_total{label="model"}'] == 50


async def test_a_name_with_wishes_is_told_by_the_model_that_served_it() -> None:
    balancer = fleet_balancer()
    balancer.observe(ModelsSeen("PC0", ["gpt-oss:20b", "gpt-oss:20b-2"]))
    wish = record(model="gpt-oss:20b-high", instance="gpt-oss:20b-2")
    series = await told(metrics(balancer), wish)

    assert series['queue_wait_seconds_count{model="gpt-oss:20b"}'] == 1


async def test_a_name_without_a_tag_is_told_as_ollama_lists_it() -> None:
    balancer = fleet_balancer()
    balancer.observe(ModelsSeen("PC0", ["tiny:latest"]))
    series = await told(metrics(balancer), record(model="tiny"))

    assert series['queue_wait_seconds_count{model="tiny:latest"}'] == 1
    assert series['label_values_dropped_total{label="model"}'] == 0


async def test_a_request_that_names_no_model_has_none() -> None:
    series = await told(metrics(), record(model="(none)"), record(model="/v1/embeddings"))

    assert series['queue_wait_seconds_count{model="none"}'] == 2


async def test_a_model_that_a_server_lists_by_its_path_is_told_by_it() -> None:
    balancer = fleet_balancer()
    balancer.observe(ModelsSeen("PC0", ["/models/llama.gguf"]))
    series = await told(metrics(balancer), record(model="/models/llama.gguf"))

    assert series['queue_wait_seconds_count{model="/models/llama.gguf"}'] == 1


async def test_the_series_stay_below_two_and_a_half_thousand() -> None:
    balancer = fleet_balancer(servers=4, models=6)
    found = metrics(balancer)
    rng = random.Random(3)
    outcomes: list[Outcome] = ["success", "client_disconnect", "upstream_error", "rejected"]
    reasons = ["sticky", "free_instance", "idle", "least_loaded"]
    for number in range(10_000):
        model = rng.choice([f"m{rng.randrange(6)}", f"x{number}"])
        server = f"PC{rng.randrange(4)}"
        facts = {"server": server, "reason": rng.choice(reasons), "stream": rng.random() < 0.5}
        found.finished(record(rng.choice(outcomes), model, **facts))

    assert len(await told(found)) < 2_500


async def test_the_state_is_described_when_it_is_asked_for() -> None:
    balancer = fleet_balancer()
    balancer.observe(HealthSeen("PC0", Sample(True, 75.0, 99.0)))
    for _ in range(3):
        balancer.observe(ProbeFailed("PC1", "models", unreachable=False))
    assert isinstance(balancer.place(Ask("m0", ("m0",), "alice", "10.0.0.1")), Lease)
    sampler = GpuSampler(OneGpu(Gpu(0, "RTX", "GPU-1", 87.0, 1000, 2000, 71.0, None, 5000.0)))
    sampler.sample_once()
    series = await told(metrics(balancer, sampler, waiting={"m0": 3, "invented": 1}))

    expected = {
        'server_up{server="PC0"}': 1,
        'server_up{server="PC1"}': 0,
        'server_state{server="PC1",state="invalid"}': 1,
        'server_state_changes_total{server="PC1",state="invalid"}': 1,
        'upstream_requests_in_flight{model="m0",server="PC0"}': 1,
        'server_request_limit{server="PC0"}': 2,
        'server_gpu_utilization_ratio{server="PC0"}': 0.75,
        'model_servers_available{model="m.*"}': 1,
        'queue_depth{model="m0"}': 3,
        'queue_depth{model="other"}': 1,
        f'requests_in_flight{{endpoint="{CHAT}"}}': 2,
        'sticky_lookups_total{result="miss"}': 1,
        "sticky_entries": 1,
        'sticky_evictions_total{reason="ttl"}': 0,
        'gpu_utilization_ratio{gpu="0",uuid="GPU-1"}': 0.87,
        'gpu_temperature_celsius{gpu="0",uuid="GPU-1"}': 71,
        'gpu_energy_joules_total{gpu="0",uuid="GPU-1"}': 5000,
        'gpu_collector_up{backend="nvml"}': 1,
    }
    assert {name: series[name] for name in expected} == expected
    assert not any(name.startswith("gpu_power_watts{") for name in series)
    assert any(name.startswith("build_info{") for name in series)


async def test_a_server_that_drains_or_loads_answers_but_serves_no_model() -> None:
    balancer = fleet_balancer(servers=3)
    balancer.drain("PC0", on=True)
    balancer.observe(SelfReport("PC1", LLAMA_CPP, loading=True))
    series = await told(metrics(balancer))

    assert [series[f'server_up{{server="PC{n}"}}'] for n in range(3)] == [1, 1, 1]
    assert series['model_servers_available{model="m.*"}'] == 1


async def test_no_label_is_longer_than_prometheus_allows() -> None:
    pattern, model = "a|" * 500 + "m.*", "/models/" + "m" * 500
    balancer = Balancer(Fleet.of([Server("PC0", "http://pc0")], {pattern: ["PC0"]}), clock=Clock())
    balancer.observe(ModelsSeen("PC0", [model]))
    series = await told(metrics(balancer), record(model=model))

    assert max(len(value) for name in series for value in name.split('"')) <= LONGEST_LABEL


async def test_when_a_server_was_seen_is_told_as_prometheus_tells_the_time() -> None:
    balancer = fleet_balancer()
    balancer.observe(HealthSeen("PC0", Sample(True, 75.0, balancer.now() - 5)))
    series = await told(metrics(balancer))

    seen = series['server_last_seen_timestamp_seconds{server="PC0"}']
    assert seen == pytest.approx(time.time() - 5, abs=2)


async def test_a_machine_without_gpus_has_no_collector_to_be_down() -> None:
    series = await told(metrics())

    assert not any(name.startswith("gpu_collector") for name in series)


async def test_probes_are_counted_and_timed() -> None:
    found = metrics()
    found.checked("PC0", "ok", 0.02)
    found.checked("PC0", "refused", 0.01)
    series = await told(found)

    assert series['health_checks_total{result="refused",server="PC0"}'] == 1
    assert series['health_check_duration_seconds_count{server="PC0"}'] == 2


async def test_the_lag_of_the_event_loop_is_measured() -> None:
    found = metrics()
    watching = asyncio.create_task(found.watch_event_loop())
    for _ in range(1000):
        if (await told(found))["event_loop_lag_seconds_count"]:
            break
    else:
        pytest.fail("no lag was measured")
    watching.cancel()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
async def test_promtool_finds_no_fault() -> None:
    found = metrics()
    found.finished(record())
    text = await found.render("text/plain")
    checked = await asyncio_run(["promtool", "check", "metrics"], text)

    assert "llama_balancer" not in checked


async def asyncio_run(command: list[str], text: bytes) -> str:
    result = subprocess.run(command, input=text, capture_output=True, check=False)  # noqa: ASYNC221
    return (result.stdout + result.stderr).decode()
