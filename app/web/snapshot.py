"""The state of everything at one moment, for scripts and for the monitor page."""

from datetime import UTC, datetime
from typing import Any

import app
from app.routing.balancer import Balancer
from app.routing.fleet import Server
from app.routing.standing import Standing
from app.routing.window import Sample
from app.telemetry.gpu import GpuSampler
from app.web.waiting import WaitingRoom

SnapshotJson = dict[str, Any]


def snapshot(
    balancer: Balancer, waiting: WaitingRoom, sampler: GpuSampler, now: float
) -> SnapshotJson:
    """Describe the state as `GET /llmhealth-snapshot` does; `now` in seconds since the epoch."""
    standings = list(balancer.standings())
    fleet = balancer.fleet
    sticky = [
        {
            "key": client,
            "ip": pin.address,
            "model": model,
            "backend": _base(fleet.servers[pin.server]),
            "server": pin.server,
            "instance": pin.instance,
            "updated_at": iso(pin.at),
        }
        for client, model, pin in balancer.pins()
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
        "backends": [_backend(standing) for standing in standings],
        "servers": {server.name: _server(server) for server in fleet.servers.values()},
        "models": {p.regex.pattern: list(p.servers) for p in fleet.patterns},
        "fallback": fleet.fallback,
        "sticky_count": len(sticky),
        "sticky": sticky,
        "queue": waiting.snapshot(),
        "leases": [
            {
                "server": lease.server,
                "instance": lease.instance,
                "model": lease.model,
                "client": lease.client,
                "reason": lease.reason,
                "age_seconds": round(now - lease.since, 3),
            }
            for standing in standings
            for lease in standing.ledger.leases()
        ],
    }


def iso(seconds: float) -> str:
    """Write a time, given in seconds since the epoch, as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _base(server: Server) -> str:
    """Give the address that stands for a server: its health address, where it has one."""
    return server.health_base or server.model_base


def _backend(standing: Standing) -> SnapshotJson:
    server, ledger, window = standing.server, standing.ledger, standing.window
    return {
        "name": server.name,
        "base": _base(server),
        "model_base": server.model_base,
        "status": standing.status,
        "last": None if window.last is None else _last(server, window.last),
        "total_inflight": ledger.total,
        "model_inflight": ledger.by_instance(),
        "request_max": ledger.limit,
        "models": None if standing.models is None else sorted(standing.models),
    }


def _last(server: Server, sample: Sample) -> SnapshotJson:
    return {
        "status": "busy" if sample.busy else "idle",
        "gpu_util_max5s": sample.gpu_percent,
        "updated_at": iso(sample.at),
        "url": f"{server.health_base}/llmhealth",
    }


def _server(server: Server) -> SnapshotJson:
    limit = {} if server.request_max is None else {"request_max": server.request_max}
    return {"health_base": server.health_base, "model_base": server.model_base, **limit}
