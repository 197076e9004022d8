"""What Prometheus scrapes: counts and durations of requests, and the state of the servers."""

import asyncio
import platform
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from app.routing.balancer import Balancer
from app.telemetry.gpu import Gpu, GpuSampler
from app.telemetry.record import Record

PREFIX = "llama_balancer"
CONTENT_TYPE = CONTENT_TYPE_LATEST
OTHER = "other"

DURATION = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
FIRST_BYTE = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
QUEUE_WAIT = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

MOST_SETS = 1000
"""How many sets of labels are remembered; there are fewer unless servers list new models."""


class Meters(NamedTuple):
    """The children of all metrics for one set of labels: looked up once per request."""

    requests: Counter
    duration: Histogram
    queue_wait: Histogram
    first_byte: Histogram
    decisions: Counter


class Metrics:
    """Counts finished requests, and describes the state whenever it is asked.

    Label values come from the configuration and from the servers' model lists; whatever
    clients make up is `other`, so they cannot make the series grow.
    """

    def __init__(
        self,
        balancer: Balancer,
        queue_depth: Callable[[], int],
        sampler: GpuSampler,
        *,
        version: str,
    ) -> None:
        self._balancer = balancer
        self._queue_depth = queue_depth
        self._sampler = sampler
        self._version = version
        self._registry = registry = CollectorRegistry()
        self._state: tuple[Metric, ...] = ()
        self._known: dict[tuple[object, ...], Meters] = {}
        self._requests = Counter(
            f"{PREFIX}_requests",
            "Finished client requests.",
            ["endpoint", "model", "server", "outcome"],
            registry=registry,
        )
        self._duration = Histogram(
            f"{PREFIX}_request_duration_seconds",
            "From the request's arrival to the last byte of its answer.",
            ["endpoint", "model"],
            buckets=DURATION,
            registry=registry,
        )
        self._queue_wait = Histogram(
            f"{PREFIX}_queue_wait_seconds",
            "How long a model request waited for a place; 0 where there was one.",
            ["model"],
            buckets=QUEUE_WAIT,
            registry=registry,
        )
        self._first_byte = Histogram(
            f"{PREFIX}_time_to_first_byte_seconds",
            "From sending a request to a server to the first byte of its answer.",
            ["server"],
            buckets=FIRST_BYTE,
            registry=registry,
        )
        self._decisions = Counter(
            f"{PREFIX}_routing_decisions",
            "Requests by the server that they went to, and why.",
            ["server", "reason"],
            registry=registry,
        )
        self._errors = Counter(
            f"{PREFIX}_upstream_errors",
            "Requests that a server failed: connect, timeout or broken.",
            ["server", "reason"],
            registry=registry,
        )
        self._retries = Counter(
            f"{PREFIX}_retries",
            "Attempts at another server after no connection to this one came about.",
            ["server"],
            registry=registry,
        )
        registry.register(_State(lambda: self._state))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    def finished(self, record: Record) -> None:
        """Count a request."""
        key = (record.endpoint, record.model, record.server, record.reason, record.outcome)
        meters = self._known.get(key) or self._meters(record, key)
        meters.requests.inc()
        meters.duration.observe(record.ended - record.started)
        if record.model:
            meters.queue_wait.observe(record.waited)
        if record.first_byte is not None and record.sent is not None:
            meters.first_byte.observe(record.first_byte - record.sent)
        if record.reason:
            meters.decisions.inc()
        for server in record.failures:
            self._errors.labels(server, "connect").inc()
            if server != record.server or record.outcome == "success":
                self._retries.labels(server).inc()
        if record.outcome == "timeout":
            self._errors.labels(record.server, "timeout").inc()
        elif record.outcome == "upstream_error" and record.server not in record.failures:
            self._errors.labels(record.server, "broken").inc()

    async def render(self) -> bytes:
        """Write all series as text.

        The state is read here, in the event loop to which it belongs; the text, which takes
        long, is written in a thread.
        """
        self._state = tuple(self._describe())
        return await asyncio.to_thread(generate_latest, self._registry)

    def _meters(self, record: Record, key: tuple[object, ...]) -> Meters:
        model = self._label(record.model)
        server = record.server or "none"
        outcome = record.outcome or "internal_error"
        meters = Meters(
            self._requests.labels(record.endpoint, model, server, outcome),
            self._duration.labels(record.endpoint, model),
            self._queue_wait.labels(model),
            self._first_byte.labels(server),
            self._decisions.labels(server, record.reason or "none"),
        )
        if len(self._known) < MOST_SETS and model == record.model:
            self._known[key] = meters
        return meters

    def _label(self, model: str) -> str:
        """Name a model that some server lists; anything else is `other`."""
        if not model or model.startswith("/"):
            return model
        for standing in self._balancer.standings():
            if standing.listed((model,)):
                return model
        return OTHER

    def _describe(self) -> Iterator[Metric]:
        up = _gauge("server_up", "Whether a server may get requests.", ["server"])
        state = _gauge("server_state", "1 for the state that a server is in.", ["server", "state"])
        inflight = _gauge(
            "upstream_requests_in_flight", "Open model requests.", ["server", "instance"]
        )
        limit = _gauge("server_request_limit", "Most requests at once.", ["server"])
        load = _gauge(
            "server_gpu_utilization_ratio", "GPU load that a server reported.", ["server"]
        )
        seen = _gauge(
            "server_last_seen_timestamp_seconds", "When a server's load was last read.", ["server"]
        )
        for standing in self._balancer.standings():
            name, window, ledger = standing.server.name, standing.window, standing.ledger
            up.add_metric([name], float(window.valid))
            for possible in ("idle", "busy", "invalid"):
                state.add_metric([name, possible], float(window.status == possible))
            open_at = ledger.by_instance()
            names = sorted((standing.models or set()) | {x for x in open_at if x.startswith("/")})
            for instance in names:
                inflight.add_metric([name, instance], open_at.pop(instance, 0))
            inflight.add_metric([name, OTHER], sum(open_at.values()))
            if ledger.limit is not None:
                limit.add_metric([name], ledger.limit)
            if window.last is not None:
                load.add_metric([name], window.last.gpu_percent / 100)
                seen.add_metric([name], window.last.at)
        yield from (up, state, inflight, limit, load, seen)
        yield _gauge("queue_depth", "Requests that wait for a place.", value=self._queue_depth())
        pins = len(self._balancer.pins())
        yield _gauge("sticky_entries", "Clients that are pinned to a server.", value=pins)
        yield from _describe_gpus(self._sampler.gpus)
        if self._sampler.up is not None:
            collector = _gauge("gpu_collector_up", "Whether the GPUs can be read.", ["backend"])
            collector.add_metric([self._sampler.backend], float(self._sampler.up))
            yield collector
        build = InfoMetricFamily(f"{PREFIX}_build", "What runs here.")
        build.add_metric(
            [], {"version": self._version, "python_version": platform.python_version()}
        )
        yield build


class _State(Collector):
    """Hands out what was read of the state last."""

    def __init__(self, state: Callable[[], Iterable[Metric]]) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        return self._state()


def _gauge(
    name: str, about: str, labels: list[str] | None = None, value: float | None = None
) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", about, labels=labels, value=value)


def _describe_gpus(gpus: Iterable[Gpu]) -> Iterator[Metric]:
    """Describe the local GPUs; what a driver does not tell has no series."""
    labels = ["gpu", "uuid"]
    info = _gauge("gpu_info", "1 for every GPU.", [*labels, "name", "driver_version"])
    load = _gauge("gpu_utilization_ratio", "Share of time that a GPU was busy.", labels)
    used = _gauge("gpu_memory_used_bytes", "Memory in use.", labels)
    total = _gauge("gpu_memory_total_bytes", "Memory there is.", labels)
    heat = _gauge("gpu_temperature_celsius", "Temperature of the core.", labels)
    power = _gauge("gpu_power_watts", "Power drawn.", labels)
    for gpu in gpus:
        which = [str(gpu.index), gpu.uuid or ""]
        info.add_metric([*which, gpu.name or "", gpu.driver_version or ""], 1)
        told = (
            (load, None if gpu.utilization is None else gpu.utilization / 100),
            (used, gpu.memory_used),
            (total, gpu.memory_total),
            (heat, gpu.temperature),
            (power, gpu.power),
        )
        for family, value in told:
            if value is not None:
                family.add_metric(which, value)
    yield from (info, load, used, total, heat, power)
