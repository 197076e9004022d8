"""The state of the servers, the queue and the GPUs at the moment of a scrape."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from app.routing.backend import Backend, Status
from app.routing.balancer import Balancer, Forecast
from app.routing.ledger import Fault
from app.telemetry.gpu.reader import Gpu, Reason
from app.telemetry.gpu.sampler import GpuSampler
from app.telemetry.instrument import label

NO_MODEL = "none"
STATES: tuple[Status, ...] = get_args(Status)
SLEEPLESS = tuple(state for state in STATES if state not in ("asleep", "waking"))
"""Those of a server that cannot be woken."""
SERVING: tuple[Status, ...] = ("idle", "busy", "asleep", "waking")
"""States in which a server gets requests, if only once it is awake."""


class StoreState(Protocol):
    """What is known of the store that replicas share."""

    @property
    def replicas(self) -> int:
        """How many there are."""

    @property
    def away(self) -> bool:
        """Whether it is away."""

    @property
    def failures(self) -> int:
        """How often it failed."""

    @property
    def told(self) -> int:
        """How many events this replica has told the others of."""

    @property
    def heard(self) -> int:
        """How many it has heard of."""


class StateCollector:
    """Describes the present. It belongs to the event loop, as what it reads does."""

    def __init__(
        self,
        prefix: str,
        balancer: Balancer,
        waiting: Callable[[], Mapping[str, int]],
        in_flight: Callable[[], Mapping[str, int]],
        sampler: GpuSampler,
        store: StoreState | None = None,
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._balancer = balancer
        self._waiting = waiting
        self._in_flight = in_flight
        self._sampler = sampler

    def describe(self, models: Iterable[str], model_of: Callable[[str], str]) -> Iterator[Metric]:
        """Read everything; `models` are the known ones, `model_of` gives a name's label."""
        backends = list(self._balancer.backends())
        yield from self._servers(backends, model_of)
        yield from self._requests(models, model_of)
        yield self._served(backends)
        yield from self._stickiness()
        yield from self._caches(backends)
        yield from self._seconds(backends)
        yield from self._gpus()
        if self._store is not None:
            yield from self._shared(self._store)

    def _shared(self, store: StoreState) -> Iterator[Metric]:
        up = self._gauge("store_up", "Whether the store that replicas share responds.")
        up.add_metric([], float(not store.away))
        replicas = self._gauge("store_replicas", "Balancers that share the store.")
        replicas.add_metric([], store.replicas)
        failures = self._counter("store_failures", "What was asked of the store in vain.")
        failures.add_metric([], store.failures)
        events = self._counter(
            "store_events", "What replicas have told each other of.", "direction"
        )
        events.add_metric(["told"], store.told)
        events.add_metric(["heard"], store.heard)
        yield from (up, replicas, failures, events)

    def _gauge(self, name: str, about: str, *labels: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"{self._prefix}_{name}", about, labels=labels)

    def _counter(self, name: str, about: str, *labels: str) -> CounterMetricFamily:
        return CounterMetricFamily(f"{self._prefix}_{name}", about, labels=labels)

    def _servers(
        self, backends: Iterable[Backend], model_of: Callable[[str], str]
    ) -> Iterator[Metric]:
        up = self._gauge("server_up", "Whether a server is up.", "server")
        state = self._gauge(
            "server_state", "1 for the state that a server is in.", "server", "state"
        )
        changes = self._counter(
            "server_state_changes", "How often a server came into a state.", "server", "state"
        )
        open_at = self._gauge(
            "upstream_requests_in_flight", "Open model requests.", "server", "model"
        )
        lingering = self._gauge(
            "leases_lingering",
            "Leases of requests that have ended, while the server may still be at work.",
            "server",
        )
        limit = self._gauge("server_request_limit", "Most requests at once.", "server")
        load = self._gauge(
            "server_gpu_utilization_ratio", "GPU load that a server reported.", "server"
        )
        seen = self._gauge(
            "server_last_seen_timestamp_seconds", "When a server's load was last read.", "server"
        )
        for backend in backends:
            name, window, ledger = backend.server.name, backend.health, backend.ledger
            up.add_metric([name], float(window.healthy))
            for possible in STATES if backend.server.wakes else SLEEPLESS:
                state.add_metric([name, possible], float(backend.status == possible))
                changes.add_metric([name, possible], backend.entered[possible])
            counts: Counter[str] = Counter({model_of(x): 0 for x in backend.models or ()})
            for instance, count in ledger.by_instance().items():
                counts[model_of(instance)] += count
            for model, count in counts.items() or [(NO_MODEL, 0)]:
                open_at.add_metric([name, model], count)
            lingering.add_metric([name], ledger.lingering)
            if ledger.limit is not None:
                limit.add_metric([name], ledger.limit)
            if window.last is not None:
                load.add_metric([name], window.last.gpu_percent / 100)
                seen.add_metric([name], time.time() - (self._balancer.now() - window.last.at))
        ejections = self._counter(
            "ejections",
            "How often a server was left alone for a while because requests failed there.",
            *("server", "reason"),
        )
        for backend in backends:
            for fault in get_args(Fault):
                name = backend.server.name
                ejections.add_metric([name, fault], self._balancer.ejections[name, fault])
        yield from (up, state, changes, ejections, open_at, lingering, limit, load, seen)

    def _requests(self, models: Iterable[str], model_of: Callable[[str], str]) -> Iterator[Metric]:
        handled = self._gauge(
            "requests_in_flight", "Requests being handled, waiting ones included.", "endpoint"
        )
        for endpoint, count in self._in_flight().items():
            handled.add_metric([endpoint], count)
        queue = self._gauge("queue_depth", "Requests in the queue.", "model")
        depths: Counter[str] = Counter(dict.fromkeys([*models, NO_MODEL], 0))
        for name, count in self._waiting().items():
            depths[model_of(name)] += count
        for model, count in depths.items():
            queue.add_metric([model], count)
        yield from (handled, queue)

    def _served(self, backends: Iterable[Backend]) -> Metric:
        able = {s.server.name for s in backends if s.status in SERVING}
        served = self._gauge(
            "model_servers_available",
            "Servers that may get a configured model's requests: up and not draining, or asleep.",
            "model",
        )
        for pattern in self._balancer.fleet.patterns:
            served.add_metric([label(pattern.regex.pattern)], len(able & set(pattern.servers)))
        return served

    def _stickiness(self) -> Iterator[Metric]:
        lookups = self._counter(
            "sticky_lookups", "Routed requests by what was known of their client.", "result"
        )
        for result, count in self._balancer.lookups.items():
            lookups.add_metric([result], count)
        entries = self._gauge("sticky_entries", "Clients that are pinned to a server.")
        entries.add_metric([], len(self._balancer.pins()))
        evictions = self._counter("sticky_evictions", "Pins forgotten, and why.", "reason")
        for reason, count in self._balancer.evictions.items():
            evictions.add_metric([reason], count)
        yield from (lookups, entries, evictions)

    def _caches(self, backends: Iterable[Backend]) -> Iterator[Metric]:
        forecasts = self._counter(
            "prompt_cache_forecasts",
            "Responses by what came of what the server's cache was believed to hold.",
            *("server", "result"),
        )
        held = self._gauge("server_prompts_held", "Prompts believed to be in a cache.", "server")
        slots = self._gauge("server_slots", "Slots that a server reports.", "server")
        foreign = self._gauge(
            "server_foreign_requests", "Requests at a server that others sent.", "server"
        )
        speed = self._gauge(
            "server_prefill_tokens_per_second", "How fast prompts are read, as measured.", "server"
        )
        now = self._balancer.now()
        for backend in backends:
            name = backend.server.name
            for result in get_args(Forecast):
                forecasts.add_metric([name, result], self._balancer.forecasts[name, result])
            held.add_metric([name], sum(r.occupied(now) for _, r in backend.prompt_caches()))
            if backend.self_report is not None and backend.self_report.slots is not None:
                slots.add_metric([name], backend.self_report.slots)
            foreign.add_metric([name], backend.ledger.foreign)
            if backend.prefill is not None:
                speed.add_metric([name], backend.prefill)
        yield from (forecasts, held, slots, foreign, speed)

    def _seconds(self, backends: Iterable[Backend]) -> Iterator[Metric]:
        tally = self._balancer.seconds.tally
        held = self._counter(
            "held_seconds", "Seconds that requests have waited beside places held for others."
        )
        held.add_metric([], tally.held)
        saved = self._counter(
            "held_saved_seconds",
            "Seconds of reading prompts again that places have saved which were held.",
        )
        saved.add_metric([], tally.saved)
        turns = self._counter(
            "held_turns",
            "Requests that took a slot, or a place in memory, after they had waited beside it.",
            "kind",
        )
        for kind, count in tally.turns.items():
            turns.add_metric([kind], count)
        expected = self._counter(
            "first_token_expected_seconds",
            "Seconds from sending requests to their first tokens, as they were expected.",
            "server",
        )
        measured = self._counter(
            "first_token_measured_seconds", "Seconds that the same first tokens took.", "server"
        )
        for backend in backends:
            name = backend.server.name
            expected.add_metric([name], tally.expected.get(name, 0.0))
            measured.add_metric([name], tally.measured.get(name, 0.0))
        yield from (held, saved, turns, expected, measured)

    def _gpus(self) -> Iterator[Metric]:
        sampler = self._sampler
        yield from self._describe_gpus(sampler.gpus, sampler.backend)
        if sampler.up is None:
            return  # nothing to read here, and nothing to complain about
        up = self._gauge("gpu_collector_up", "Whether the GPUs can be read.", "backend")
        up.add_metric([sampler.backend], float(sampler.up))
        errors = self._counter(
            "gpu_collector_errors", "Failed readings of the GPUs.", "backend", "reason"
        )
        for reason in get_args(Reason):
            errors.add_metric([sampler.backend, reason], sampler.errors[reason])
        yield from (up, errors)

    def _describe_gpus(self, gpus: Iterable[Gpu], backend: str) -> Iterator[Metric]:
        """Describe the local GPUs; what a driver does not report has no series."""
        which = ("gpu", "uuid")
        info = self._gauge(
            "gpu_info", "1 for every GPU.", *which, "name", "driver_version", "backend"
        )
        load = self._gauge("gpu_utilization_ratio", "Share of time that a GPU was busy.", *which)
        used = self._gauge("gpu_memory_used_bytes", "Memory in use.", *which)
        total = self._gauge("gpu_memory_total_bytes", "Memory there is.", *which)
        heat = self._gauge("gpu_temperature_celsius", "Temperature of the core.", *which)
        power = self._gauge("gpu_power_watts", "Power drawn.", *which)
        energy = self._counter("gpu_energy_joules", "Energy used since the driver's start.", *which)
        for gpu in gpus:
            name = [str(gpu.index), gpu.uuid or ""]
            info.add_metric([*name, gpu.name or "", gpu.driver_version or "", backend], 1)
            reported: tuple[tuple[GaugeMetricFamily | CounterMetricFamily, float | None], ...] = (
                (load, None if gpu.utilization is None else gpu.utilization / 100),
                (used, gpu.memory_used),
                (total, gpu.memory_total),
                (heat, gpu.temperature),
                (power, gpu.power),
                (energy, gpu.energy),
            )
            for family, value in reported:
                if value is not None:
                    family.add_metric(name, value)
        yield from (info, load, used, total, heat, power, energy)
