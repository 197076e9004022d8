"""What the balancer emits once everything has happened to it."""

import functools
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from app.keys.key_ring import Key
from app.routing.balancer import Balancer
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.health_window import Sample as Probe
from app.routing.ledger import Lease
from app.routing.observations import CacheReuse, HealthSeen, ModelsSeen, ProbeFailed, SelfReport
from app.routing.prompt_change import PromptChange
from app.telemetry.gpu.reader import Gpu
from app.telemetry.gpu.sampler import GpuSampler
from app.telemetry.metrics import Metrics
from app.telemetry.record import Record
from app.telemetry.response_reader import ResponseReader
from tests.fakes import records
from tests.fakes.clock import Clock
from tests.fakes.gpu import OneGpu
from tests.fakes.kinds import LLAMA_CPP

CHAT = "/v1/chat/completions"


class Store(NamedTuple):
    """What is known of the store that replicas share."""

    replicas: int
    away: bool
    failures: int
    told: int
    heard: int


async def emitted() -> dict[str, frozenset[str]]:
    """Give the name of every sample, with the labels that it has."""
    return {sample.name: frozenset(sample.labels) for sample in await _samples()}


async def emitted_edges() -> dict[str, set[float]]:
    """Give the name of every histogram's buckets, with the edges between them."""
    edges: dict[str, set[float]] = {}
    for sample in await _samples():
        if "le" in sample.labels:
            edges.setdefault(sample.name, set()).add(float(sample.labels["le"]))
    return edges


async def _samples() -> list[Sample]:
    server = Server("PC1", "http://pc1:8081", "http://pc1:18000", 2)
    balancer = Balancer(Fleet.of([server], {"m.*": ["PC1"]}), clock=Clock())
    balancer.observe(ModelsSeen("PC1", ["m"]))
    balancer.observe(HealthSeen("PC1", Probe(True, 75.0, 99.0)))
    balancer.observe(ProbeFailed("PC1", "models", unreachable=True))
    balancer.observe(SelfReport("PC1", LLAMA_CPP, slots=2, busy_slots=frozenset()))
    lease = balancer.place(Ask("m", ("m",), "alice", "::1"))
    assert isinstance(lease, Lease)
    lease.reuse = CacheReuse(500, 100, 1.0)
    lease.release()
    sampler = GpuSampler(
        OneGpu(Gpu(0, "RTX", "GPU-1", 87.0, 1000, 2000, 71.0, 300.0, 5000.0, "560"))
    )
    sampler.sample_once()
    sampler.errors["lost"] += 1
    metrics = Metrics(
        balancer,
        sampler,
        waiting=dict,
        in_flight=lambda: {CHAT: 1},
        version="1",
        store=Store(replicas=3, away=False, failures=0, told=0, heard=0),
    )
    metrics.stored(0.001)
    metrics.checked("PC1", "ok", 0.1)
    for record in _records():
        metrics.finished(record)
    text = (await metrics.render("text/plain")).decode()
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def _records() -> list[Record]:
    where: dict[str, Any] = {"model": "m", "server": "PC1", "instance": "m", "reason": "sticky"}
    times: dict[str, Any] = {"ready": 1.0, "sent": 1.1, "first_byte": 1.2, "ended": 2.0}
    token = b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'
    stream, silent = ResponseReader(streams=True), ResponseReader(streams=True)
    for piece in (token, token, b'data: {"usage": {"prompt_tokens": 1}}\n\n'):
        stream.passes(piece)

    record = functools.partial(records.record, **where, **times, status=200)
    changed = record(stream=True, response=stream, outcome="success")
    assert changed.lease is not None
    changed.lease.change = PromptChange("clock", 0, 0)
    changed.key = Key("alice")
    return [
        changed,
        record(stream=True, response=stream, outcome="success"),
        record(stream=True, response=silent, outcome="client_disconnect"),
        record(outcome="success", response=ResponseReader(streams=False)),
        record(outcome="success", failures=("PC2",), faults=("connect",), response=stream),
        record(outcome="upstream_error", failures=("PC1",), faults=("connect",), first_byte=None),
        record(outcome="rejected", rejection="queue_full", first_byte=None, sent=None),
    ]
