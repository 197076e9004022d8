"""The state of everything at one moment, for scripts and for the monitor page."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, get_args

import app
from app.proxy.queue import RequestQueue
from app.routing.backend import Backend, Change
from app.routing.balancer import Balancer, Forecast, Source
from app.routing.fleet import Server
from app.routing.health_window import Sample
from app.routing.ledger import Lease
from app.routing.prompt_change import ADVICE, PromptChange
from app.telemetry.gpu.sampler import GpuSampler
from app.telemetry.reloads import Reloads
from app.upstream.model_orders import understands

SnapshotJson = dict[str, Any]


def snapshot(
    balancer: Balancer,
    waiting: RequestQueue,
    sampler: GpuSampler,
    now: float,
    *,
    changed_prompts: Sequence[SnapshotJson] = (),
    may_drain: bool = False,
    open_at: str | None = None,
    reloads: Reloads | None = None,
    store: SnapshotJson | None = None,
    most: int | None = None,
) -> SnapshotJson:
    """Describe the state as `GET /llmhealth-snapshot` does; `now` in seconds since the epoch.

    `changed_prompts` are the conversations that were read again, `may_drain` tells whether a
    key allows to drain servers, `open_at` where anybody may use every model, `store` what
    replicas share (None for one balancer), `reloads` whether settings were refused. With `most`,
    only so many pins and leases are described, the newest pins and the oldest leases.
    """
    backends = list(balancer.backends())
    leases = (lease for backend in backends for lease in backend.ledger.leases())
    fleet = balancer.fleet
    at = Calendar(balancer.now(), now)
    pins = balancer.pins()
    sticky = [
        {
            "key": client,
            "ip": pin.address,
            "model": model,
            "backend": _base(fleet.servers[pin.server]),
            "server": pin.server,
            "instance": pin.instance,
            "updated_at": at.iso(pin.at),
        }
        for client, model, pin in pins[-(most or len(pins)) :]
    ]
    return {
        "now": iso(now),
        "version": app.__version__,
        "local": sampler.health(),
        "gpu_backend": sampler.backend,
        "gpus": [
            {
                "index": gpu.index,
                "name": gpu.name,
                "uuid": gpu.uuid,
                "utilization": gpu.utilization,
                "memory_used": gpu.memory_used,
                "memory_total": gpu.memory_total,
                "temperature": gpu.temperature,
                "power": gpu.power,
            }
            for gpu in sampler.gpus
        ],
        "backends": [_backend(balancer, backend, at) for backend in backends],
        "servers": {server.name: _server(server) for server in fleet.servers.values()},
        "models": {p.regex.pattern: list(p.servers) for p in fleet.patterns},
        "fallback": fleet.fallback,
        "drain": may_drain,
        "open_at": open_at,
        "store": store,
        "refused_settings": [] if reloads is None else list(reloads.mistakes),
        "sticky_count": len(pins),
        "sticky": sticky,
        "queue": waiting.snapshot(),
        "leases": [_lease(lease, at) for lease in itertools.islice(leases, most)],
        "decisions": [_lease(lease, at) for lease in reversed(balancer.decisions)],
        "changed_prompts": list(changed_prompts),
    }


class Calendar:
    """Dates times on the monotonic clock, where `monotonic` is `epoch` seconds since the epoch."""

    def __init__(self, monotonic: float, epoch: float) -> None:
        self._monotonic = monotonic
        self._epoch = epoch

    def age(self, at: float) -> float:
        """Count the seconds since a time on the monotonic clock."""
        return self._monotonic - at

    def iso(self, at: float) -> str:
        """Write a time on the monotonic clock as ISO 8601 in UTC."""
        return iso(self._epoch - self.age(at))


def iso(seconds: float) -> str:
    """Write a time, given in seconds since the epoch, as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _base(server: Server) -> str:
    """Return the address that stands for a server: its health address, where it has one."""
    return server.health_base or server.model_base


def _lease(lease: Lease, at: Calendar) -> SnapshotJson:
    return {
        "server": lease.server,
        "instance": lease.instance,
        "slot": lease.slot,
        "model": lease.model,
        "client": lease.client,
        "reason": lease.reason,
        "expected_share": None if lease.prediction is None else round(lease.prediction.share, 3),
        "change": change_of_prompt(lease.change),
        "held_seconds": round(lease.held, 3),
        "expected_seconds": None if lease.expected is None else round(lease.expected, 3),
        "first_token_seconds": None if lease.measured is None else round(lease.measured, 3),
        "age_seconds": round(at.age(lease.since), 3),
        "lingers": lease.lingers,
    }


def change_of_prompt(change: PromptChange | None) -> SnapshotJson | None:
    """Write what changed in a conversation, without any of its text."""
    if change is None:
        return None
    return {
        "kind": change.kind,
        "message": change.message,
        "character": change.character,
        "advice": ADVICE[change.kind],
    }


def _backend(balancer: Balancer, backend: Backend, at: Calendar) -> SnapshotJson:
    server, ledger, window = backend.server, backend.ledger, backend.health
    report = backend.self_report
    return {
        "name": server.name,
        "base": _base(server),
        "model_base": server.model_base,
        "status": backend.status,
        "last": None if window.last is None else _last(server, window.last, at),
        "total_inflight": ledger.total,
        "lingering": ledger.lingering,
        "model_inflight": ledger.by_instance(),
        "request_max": ledger.limit,
        "models": None if backend.models is None else sorted(backend.models),
        "kind": None if report is None else report.kind.name,
        "tier": server.tier,
        "weight": server.weight,
        "draining": backend.draining,
        "drained_by": sorted(backend.drained_by),
        "changed": change_json(backend.changed, at),
        "faults": dict(backend.faults),
        "ejected_until": None if backend.ejection.until is None else at.iso(backend.ejection.until),
        "others_inflight": ledger.elsewhere,
        "request_share": ledger.share,
        "orders_models": report is not None
        and report.loaded is not None
        and understands(report.kind.name),
        "pinned_models": balancer.pinned_models(server.name),
        "starting": [] if report is None else sorted(report.starting),
        "context": backend.least_context or None,
        "loaded": None if report is None or report.loaded is None else sorted(report.loaded),
        "slots": [
            {
                "instance": instance,
                "number": slot.number,
                "busy": slot.busy,
                "others": slot.number in backend.elsewhere,
                "characters": 0 if slot.prompt is None else slot.prompt.size,
                "unused_seconds": round(at.age(slot.used_at), 1) if slot.used_at else None,
            }
            for instance, prompt_cache in backend.prompt_caches()
            for slot in prompt_cache.slots
        ],
        "prefill_tokens_per_second": backend.prefill and round(backend.prefill, 1),
        "prompt_tokens": {
            source: balancer.tokens[server.name, source] for source in get_args(Source)
        },
        "forecasts": {
            result: balancer.forecasts[server.name, result] for result in get_args(Forecast)
        },
    }


def change_json(change: Change | None, at: Calendar) -> SnapshotJson | None:
    """Describe the last change of a server's status; None where there was none."""
    if change is None:
        return None
    return {"status": change.status, "reason": change.reason, "at": at.iso(change.at)}


def _last(server: Server, sample: Sample, at: Calendar) -> SnapshotJson:
    return {
        "status": "busy" if sample.busy else "idle",
        "gpu_util_max5s": sample.gpu_percent,
        "updated_at": at.iso(sample.at),
        "url": f"{server.health_base}/llmhealth",
    }


def _server(server: Server) -> SnapshotJson:
    limit = {} if server.request_max is None else {"request_max": server.request_max}
    return {"health_base": server.health_base, "model_base": server.model_base, **limit}
