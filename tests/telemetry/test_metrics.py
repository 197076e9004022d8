import random
import shutil
import subprocess

import pytest

from app.routing.balancer import Balancer, Failure, HealthAnswer, ModelsAnswer
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.ledger import Lease
from app.routing.window import Sample
from app.telemetry.gpu import Gpu, GpuSampler, NoReader
from app.telemetry.metrics import Metrics
from app.telemetry.record import Outcome, Record
from tests.fakes.clock import Clock

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"


class OneGpu:
    backend = "nvml"

    def read(self) -> tuple[Gpu, ...]:
        return (Gpu(0, "RTX", "GPU-1", 87.0, 1000, 2000, 71.0, None),)

    def close(self) -> None: ...


def fleet_balancer(servers: int = 2, models: int = 1) -> Balancer:
    fleet = Fleet.of([Server(f"PC{n}", f"http://pc{n}", None, 2) for n in range(servers)])
    balancer = Balancer(fleet, clock=Clock())
    for name in fleet.servers:
        balancer.learn(ModelsAnswer(name, [f"m{n}" for n in range(models)]))
    return balancer


def metrics(balancer: Balancer | None = None, sampler: GpuSampler | None = None) -> Metrics:
    sampler = sampler or GpuSampler(NoReader())
    return Metrics(balancer or fleet_balancer(), lambda: 3, sampler, version="9.9")


def record(outcome: Outcome | None = "success", model: str = "m0", **facts: object) -> Record:
    settings: dict[str, object] = {
        "server": "PC0",
        "instance": model,
        "reason": "sticky",
        "waited": 0.2,
        "sent": 1.0,
        "first_byte": 1.5,
        "ended": 3.0,
        **facts,
    }
    return Record("1", CHAT, "10.0.0.1", 0.5, model=model, outcome=outcome, **settings)  # type: ignore[arg-type]


async def lines(found: Metrics) -> list[str]:
    return (await found.render()).decode().splitlines()


async def test_a_finished_request_is_counted_and_timed() -> None:
    found = metrics()
    found.finished(record())
    text = await lines(found)

    key = f'endpoint="{CHAT}",model="m0"'
    assert f'llama_balancer_requests_total{{{key},outcome="success",server="PC0"}} 1.0' in text
    assert f"llama_balancer_request_duration_seconds_sum{{{key}}} 2.5" in text
    assert 'llama_balancer_queue_wait_seconds_sum{model="m0"} 0.2' in text
    assert 'llama_balancer_time_to_first_byte_seconds_sum{server="PC0"} 0.5' in text
    assert 'llama_balancer_routing_decisions_total{reason="sticky",server="PC0"} 1.0' in text


@pytest.mark.parametrize(
    "outcome",
    ["client_error", "upstream_error", "timeout", "rejected", "client_disconnect", None],
)
async def test_every_outcome_is_told_apart(outcome: Outcome | None) -> None:
    found = metrics()
    found.finished(record(outcome))

    label = outcome or "internal_error"
    assert any(f'outcome="{label}"' in line for line in await lines(found))


async def test_failures_of_servers_are_counted_by_reason() -> None:
    found = metrics()
    found.finished(record(failures=("PC1",)))
    found.finished(record("upstream_error"))
    found.finished(record("timeout"))
    text = await lines(found)

    for server, reason in (("PC1", "connect"), ("PC0", "broken"), ("PC0", "timeout")):
        name = f'llama_balancer_upstream_errors_total{{reason="{reason}",server="{server}"}} 1.0'
        assert name in text
    assert 'llama_balancer_retries_total{server="PC1"} 1.0' in text


async def test_names_that_clients_make_up_are_other() -> None:
    found = metrics()
    for number in range(50):
        found.finished(record(model=f"made-up-{number}"))
    text = "\n".join(await lines(found))

    assert "made-up" not in text
    assert 'model="other",outcome="success",server="PC0"} 50.0' in text


async def test_the_series_stay_below_two_thousand() -> None:
    balancer = fleet_balancer(servers=4, models=6)
    found = metrics(balancer)
    rng = random.Random(3)
    outcomes: list[Outcome] = ["success", "client_disconnect", "upstream_error", "rejected"]
    reasons = ["sticky", "free_instance", "idle", "least_loaded"]
    for number in range(5_000):
        model = rng.choice([f"m{rng.randrange(6)}", f"x{number}"])
        server = f"PC{rng.randrange(4)}"
        facts = {"server": server, "reason": rng.choice(reasons)}
        found.finished(record(rng.choice(outcomes), model, **facts))

    assert len([line for line in await lines(found) if not line.startswith("#")]) < 2_000


async def test_the_state_is_described_when_it_is_asked_for() -> None:
    balancer = fleet_balancer()
    balancer.learn(HealthAnswer("PC0", Sample(True, 75.0, 99.0)))
    for _ in range(3):
        balancer.learn(Failure("PC1", "models", unreachable=False))
    assert isinstance(balancer.place(Ask("m0", ("m0",), "alice", "10.0.0.1")), Lease)
    sampler = GpuSampler(OneGpu())
    sampler.sample_once()
    text = await lines(metrics(balancer, sampler))

    for line in (
        'server_up{server="PC0"} 1.0',
        'server_up{server="PC1"} 0.0',
        'server_state{server="PC1",state="invalid"} 1.0',
        'upstream_requests_in_flight{instance="m0",server="PC0"} 1.0',
        'server_request_limit{server="PC0"} 2.0',
        'server_gpu_utilization_ratio{server="PC0"} 0.75',
        "queue_depth 3.0",
        'gpu_utilization_ratio{gpu="0",uuid="GPU-1"} 0.87',
        'gpu_temperature_celsius{gpu="0",uuid="GPU-1"} 71.0',
        'gpu_collector_up{backend="nvml"} 1.0',
    ):
        assert f"llama_balancer_{line}" in text
    assert not any(line.startswith("llama_balancer_gpu_power_watts{") for line in text)
    assert any(line.startswith("llama_balancer_build_info{") for line in text)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
async def test_promtool_finds_no_fault() -> None:
    found = metrics()
    found.finished(record())
    text = await found.render()
    checked = await asyncio_run(["promtool", "check", "metrics"], text)

    assert "llama_balancer" not in checked


async def asyncio_run(command: list[str], text: bytes) -> str:
    result = subprocess.run(command, input=text, capture_output=True, check=False)  # noqa: ASYNC221
    return (result.stdout + result.stderr).decode()
