"""What Prometheus scrapes, put together."""

import asyncio
import functools
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from app.routing.balancer import Balancer
from app.routing.catalog import models_by_name
from app.routing.fleet import spelt
from app.telemetry import exposition, log_writer, logs
from app.telemetry.collector import NO_MODEL, StateCollector, StoreState
from app.telemetry.gpu.sampler import GpuSampler
from app.telemetry.instrument import Instruments, label
from app.telemetry.key_metrics import KeyMetrics
from app.telemetry.record import Record
from app.telemetry.reloads import Reloads
from app.telemetry.request_metrics import OTHER, RequestMetrics

PREFIX: Final = "llama_balancer"

PROBE: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5)
STORE: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2)
LAG: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
LAG_INTERVAL: Final = 0.1
"""Seconds between two looks at the event loop's lag."""

TASKS: Final = (
    *("probe", "introspection", "pool", "clients", "gpus", "telemetry", "usage", "lag"),
    "store",
)
"""What runs again and again, whatever happens to one round of it."""

MOST_MODELS: Final = 100
"""Model names beyond these are `other`, even if servers list them."""


class Metrics:
    """Everything that is counted and measured, in one registry.

    Label values come from the configuration and from the servers' model lists; whatever
    clients make up is `other`, so they cannot make the series grow.
    """

    def __init__(
        self,
        balancer: Balancer,
        sampler: GpuSampler,
        *,
        waiting: Callable[[], Mapping[str, int]],
        in_flight: Callable[[], Mapping[str, int]],
        version: str,
        reloads: Reloads | None = None,
        store: StoreState | None = None,
    ) -> None:
        self._reloads = reloads or Reloads()
        self._balancer = balancer
        self._registry = registry = CollectorRegistry()
        self._state = StateCollector(PREFIX, balancer, waiting, in_flight, sampler, store)
        self._described: tuple[Metric, ...] = ()
        self._models: set[str] = set()
        instruments = Instruments(PREFIX, registry)
        self._folded = instruments.counter(
            "label_values_dropped", "Label values folded into other.", "label"
        ).labels("model")
        self._requests = RequestMetrics(instruments, self._model_of_record)
        self._keys = KeyMetrics(instruments)
        self._requests.expect(balancer.fleet.servers)
        self._checks = instruments.counter(
            "health_checks",
            "Probes of a server's load, or of its models where it has no agent.",
            *("server", "result"),
        )
        self._check_duration = instruments.histogram(
            "health_check_duration_seconds", "How long a probe took.", PROBE, "server"
        )
        self._lag = instruments.histogram(
            "event_loop_lag_seconds",
            f"How late the event loop came to something due after {LAG_INTERVAL} s.",
            LAG,
        ).labels()
        self._store = instruments.histogram(
            "store_seconds", "How long the store took that replicas share.", STORE
        )
        build = InfoMetricFamily(f"{PREFIX}_build", "What runs here.")
        revision = os.environ.get("LLAMA_BALANCER_REVISION", "")
        about = {"version": version, "revision": revision}
        build.add_metric([], {**about, "python_version": platform.python_version()})
        self._build = build
        registry.register(_Described(lambda: self._described))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    def finished(self, record: Record) -> None:
        """Count a request."""
        self._requests.finished(record)
        if record.key is not None:
            self._keys.count(record, record.key.name)

    def expect(self, servers: Iterable[str]) -> None:
        """Begin at 0 for servers that there are now."""
        self._requests.expect(servers)

    def checked(self, server: str, result: str, seconds: float) -> None:
        """Count a probe."""
        self._checks.labels(server, result).value += 1
        self._check_duration.labels(server).observe(seconds)

    def stored(self, seconds: float) -> None:
        """Time a round trip to the store that replicas share."""
        self._store.labels().observe(seconds)

    async def watch_event_loop(self) -> None:
        """Measure, until cancelled, how late the event loop is."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_INTERVAL
            await asyncio.sleep(LAG_INTERVAL)
            try:
                self._lag.observe(max(0.0, loop.time() - due))
            except Exception:  # noqa: BLE001 - logged and counted
                logs.task_failed("lag")

    async def render(self, content_type: str) -> bytes:
        """Write all series as a content type says (see `exposition`).

        The state is read here, in the event loop to which it belongs; the text, which takes
        long, is written in a thread.
        """
        names = models_by_name(self._balancer.backends())
        label_of = functools.partial(self._label, names=names)
        written = CounterMetricFamily(
            f"{PREFIX}_logged_messages", "Log lines of warnings and errors.", labels=["level"]
        )
        for level in ("warning", "error"):
            written.add_metric([level], logs.written.get(level, 0))
        state = self._state.describe(dict.fromkeys(map(label_of, sorted(names))), label_of)
        failed = CounterMetricFamily(
            f"{PREFIX}_task_failures", "Rounds of periodic tasks that failed.", labels=["task"]
        )
        for task in TASKS:
            failed.add_metric([task], logs.failures[task])
        lost = CounterMetricFamily(
            f"{PREFIX}_log_lines_dropped",
            "Log lines that were not written, as nobody had read those before.",
            value=log_writer.dropped["lines"],
        )
        reloads = (
            GaugeMetricFamily(
                f"{PREFIX}_config_last_reload_successful",
                "Whether the settings were taken in when they were read last.",
                value=float(self._reloads.successful),
            ),
            GaugeMetricFamily(
                f"{PREFIX}_config_last_reload_success_timestamp_seconds",
                "When settings were taken in last, in seconds since 1970.",
                value=self._reloads.succeeded_at,
            ),
        )
        self._described = (*state, written, failed, lost, *reloads, self._build)
        return await asyncio.to_thread(exposition.write, self._registry.collect(), content_type)

    def _model_of_record(self, record: Record) -> str:
        names = models_by_name(self._balancer.backends())
        model = self._label(record.model, names) if record.model else NO_MODEL
        # A name that asks for more than the model, as `…-high` does, is known by where it went.
        if model == OTHER and record.instance:
            model = self._label(record.instance, names)
        if model == OTHER:
            self._folded.value += 1
        return model

    def _label(self, name: str, names: Mapping[str, str]) -> str:
        """Name the model of an instance in `names`, which servers list; anything else is `other`.

        Servers that are down keep the names that they had.
        """
        if (known := spelt(name, names)) is not None:
            name = label(names[known])
            if len(self._models) < MOST_MODELS:
                self._models.add(name)
        elif name.startswith(("/", "(")):
            return NO_MODEL  # an endpoint in a model's place, or a request that named none
        return name if name in self._models else OTHER


class _Described(Collector):
    """Hands out what was read of the state last."""

    def __init__(self, described: Callable[[], Iterable[Metric]]) -> None:
        self._read = described

    def collect(self) -> Iterable[Metric]:
        return self._read()
