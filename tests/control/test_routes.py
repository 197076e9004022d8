"""The control endpoints: exact keys, since scripts read them."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

import app
from app.control import routes
from app.control.snapshot import snapshot
from app.proxy.queue import RequestQueue
from app.routing.balancer import Balancer
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.health_window import Sample
from app.routing.ledger import Lease
from app.routing.observations import CacheReuse, HealthSeen, ModelsSeen, ProbeFailed, SelfReport
from app.routing.prompt import Prompt
from app.telemetry.gpu.reader import NoReader
from app.telemetry.gpu.sampler import GpuSampler
from tests.fakes.clock import Clock
from tests.fakes.kinds import LLAMA_CPP

pytestmark = pytest.mark.anyio

SERVERS = [
    Server("PC1", "http://pc1:8081", "http://pc1:18000", 1),
    Server("PC2", "http://pc2:8081"),
]


def balancer(clock: Clock | None = None) -> Balancer:
    return Balancer(Fleet.of(SERVERS, {"m.*": ["PC1", "PC2"]}), clock=clock or Clock(0.0))


def placed(b: Balancer, client: str = "alice", model: str = "m") -> Lease:
    lease = b.place(Ask(model, (model,), client, "10.0.0.9"))
    assert isinstance(lease, Lease)
    return lease


async def taken(b: Balancer, now: float = 60.0) -> dict[str, Any]:
    queue = RequestQueue(b, capacity=3, timeout=1.0)
    told = snapshot(b, queue, GpuSampler(NoReader()), now)
    return json.loads(json.dumps(told))  # type: ignore[no-any-return]


async def test_the_snapshot_has_the_keys_that_scripts_read() -> None:
    clock = Clock(0.0)
    b = balancer(clock)
    b.observe(HealthSeen("PC1", Sample(busy=True, gpu_percent=75.0, at=30.0)))
    b.observe(ModelsSeen("PC1", ["m-2", "m"]))
    b.observe(ProbeFailed("PC2", "models", unreachable=True))
    placed(b)

    clock.tick(60)
    told = await taken(b)

    assert told["now"] == "1970-01-01T00:01:00Z"
    assert told["local"] == {"status": "idle", "gpu_util_max5s": 0.0, "window_seconds": 5}
    expected: list[dict[str, object]] = [
        {
            "name": "PC1",
            "base": "http://pc1:18000",
            "model_base": "http://pc1:8081",
            "status": "busy",
            "last": {
                "status": "busy",
                "gpu_util_max5s": 75.0,
                "updated_at": "1970-01-01T00:00:30Z",
                "url": "http://pc1:18000/llmhealth",
            },
            "total_inflight": 1,
            "model_inflight": {"m": 1},
            "request_max": 1,
            "models": ["m", "m-2"],
        },
        {
            "name": "PC2",
            "base": "http://pc2:8081",
            "model_base": "http://pc2:8081",
            "status": "invalid",
            "last": None,
            "total_inflight": 0,
            "model_inflight": {},
            "request_max": None,
            "models": None,
        },
    ]
    keys = expected[0].keys()
    assert [{key: one[key] for key in keys} for one in told["backends"]] == expected
    assert told["servers"] == {
        "PC1": {
            "health_base": "http://pc1:18000",
            "model_base": "http://pc1:8081",
            "request_max": 1,
        },
        "PC2": {"health_base": None, "model_base": "http://pc2:8081"},
    }
    assert told["models"] == {"m.*": ["PC1", "PC2"]}
    assert told["sticky_count"] == 1
    assert told["sticky"] == [
        {
            "key": "alice",
            "ip": "10.0.0.9",
            "model": "m",
            "backend": "http://pc1:18000",
            "server": "PC1",
            "instance": "m",
            "updated_at": "1970-01-01T00:00:00Z",
        }
    ]
    assert told["leases"] == [
        {
            "server": "PC1",
            "instance": "m",
            "slot": None,
            "model": "m",
            "client": "alice",
            "reason": "free_instance",
            "expected_share": None,
            "change": None,
            "held_seconds": 0.0,
            "expected_seconds": None,
            "first_token_seconds": None,
            "age_seconds": 60.0,
            "lingers": False,
        }
    ]
    assert told["queue"]["max"] == 3
    assert (told["fallback"], told["gpus"], told["gpu_backend"]) == ("PC1", [], "none")
    assert told["version"] == app.__version__


async def test_without_servers_the_snapshot_is_empty_and_still_complete() -> None:
    told = await taken(Balancer(Fleet.of([]), clock=Clock()))

    assert (told["backends"], told["servers"], told["fallback"]) == ([], {}, None)


def control() -> FastAPI:
    async def metrics(content_type: str) -> bytes:
        return f"a 1 {content_type}\n".encode()

    b = balancer()
    b.observe(ModelsSeen("PC1", ["m"]))
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    router = routes.routes(
        health=lambda: {"status": "idle"},
        unready=lambda: "",
        snapshot=lambda: {"now": "now"},
        stats=lambda: {"total_requests": 0},
        backends=b.backends,
        metrics=metrics,
    )
    app.include_router(router)
    return app


async def ask(
    method: str, path: str, headers: Mapping[str, str] = MappingProxyType({})
) -> httpx.Response:
    transport = httpx.ASGITransport(app=control())
    async with httpx.AsyncClient(transport=transport, base_url="http://balancer") as client:
        return await client.request(method, path, headers=headers)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/llmhealth", {"status": "idle"}),
        ("/llmhealth-ready", {"ready": True}),
        ("/llmhealth-snapshot", {"now": "now"}),
        ("/access-log-stats", {"total_requests": 0}),
    ],
)
async def test_the_endpoints_answer_json(path: str, body: object) -> None:
    answer = await ask("GET", path)

    assert (answer.status_code, answer.json()) == (200, body)


@pytest.mark.parametrize("accepted", ["text/plain", "application/openmetrics-text"])
async def test_metrics_come_in_the_type_that_prometheus_asks_for(accepted: str) -> None:
    kind, choice = f"{accepted}; version=1.0.0", "text/html;q=0.9, "
    answer = await ask("GET", "/metrics", {"accept": f"{choice}{kind};q=0.5"})

    assert answer.headers["content-type"].startswith(kind)
    assert answer.text == f"a 1 {answer.headers['content-type']}\n"


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip;q=0.0, identity", False),
        ("br", False),
        ("identity", False),
    ],
)
async def test_metrics_are_compressed_for_those_who_take_that(
    accepted: str, compressed: bool
) -> None:
    answer = await ask("GET", "/metrics", {"accept-encoding": accepted})

    assert answer.text.startswith("a 1 ")  # decoded by httpx
    assert (answer.headers.get("content-encoding") == "gzip") is compressed
    assert answer.headers["vary"] == "accept, accept-encoding"


async def test_the_icon_that_browsers_ask_for_is_none() -> None:
    assert (await ask("GET", "/favicon.ico")).status_code == 204


async def test_head_is_answered_where_get_is() -> None:
    answer = await ask("HEAD", "/llmhealth")

    assert (answer.status_code, answer.content) == (200, b"")


def test_prometheus_is_told_every_agent_by_its_machine() -> None:
    servers = [*SERVERS, Server("PC3", "https://pc3", "https://[fd00::3]/agent")]

    assert routes.targets(servers) == [
        {"targets": ["pc1:18000"], "labels": {"machine": "PC1", "__scheme__": "http"}},
        {"targets": ["[fd00::3]:443"], "labels": {"machine": "PC3", "__scheme__": "https"}},
    ]


async def test_the_snapshot_tells_what_is_believed_of_caches() -> None:
    clock = Clock(50.0)
    b = balancer(clock)
    b.observe(HealthSeen("PC1", Sample(busy=False, gpu_percent=0.0, at=49.0)))
    b.observe(SelfReport("PC1", LLAMA_CPP, slots=2, busy_slots=frozenset()))
    prompt = Prompt(["user\n" + "x" * 500], 0)
    lease = b.place(Ask("m", ("m",), "alice", "10.0.0.9", prompt))
    assert isinstance(lease, Lease)
    lease.reuse = CacheReuse(prompt=500, cached=100, seconds=2.0)
    lease.release()
    other = Prompt(["user\n" + "y" * 600], 0)
    assert isinstance(b.place(Ask("m", ("m",), "bob", "10.0.0.9", other), ("PC2",)), Lease)

    clock.tick(10)
    told = await taken(b)

    first = told["backends"][0]
    assert (first["kind"], first["others_inflight"]) == ("llamacpp", 0)
    assert [(s["busy"], s["others"], s["characters"]) for s in first["slots"]] == [
        (False, False, 505),
        (True, False, 605),
    ]
    assert first["prompt_tokens"] == {"cache": 100, "work": 400}
    assert first["prefill_tokens_per_second"] == 200.0
    assert first["forecasts"]["none"] == 1
    decision = told["decisions"][-1]
    assert (decision["reason"], decision["slot"], decision["age_seconds"]) == ("empty_slot", 0, 10)
