"""The control endpoints: what the balancer itself answers."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from app.routing.backend import Backend
from app.routing.fleet import Server
from app.settings.listening import bracketed

GET = ["GET", "HEAD"]


def routes(
    *,
    health: Callable[[], dict[str, object]],
    snapshot: Callable[[], dict[str, Any]],
    stats: Callable[[], dict[str, object]],
    backends: Callable[[], Iterable[Backend]],
    metrics: Callable[[], Awaitable[bytes]],
    metrics_type: str,
) -> APIRouter:
    """Build the routes over functions that give the present state."""
    router = APIRouter()

    @router.api_route("/llmhealth", methods=GET)
    async def llmhealth() -> JSONResponse:
        """Return whether this machine's GPUs are busy. Other balancers poll it."""
        return JSONResponse(health())

    @router.api_route("/llmhealth-snapshot", methods=GET)
    async def llmhealth_snapshot() -> JSONResponse:
        """Return the state of every server, pin and lease."""
        return JSONResponse(snapshot())

    @router.api_route("/access-log-stats", methods=GET)
    async def access_log_stats() -> JSONResponse:
        """Return who asked for which model in the last hour."""
        return JSONResponse(stats())

    @router.api_route("/metrics", methods=GET)
    async def prometheus() -> Response:
        """Return the metrics, as Prometheus reads them."""
        return Response(await metrics(), headers={"content-type": metrics_type})

    @router.api_route("/llmhealth-targets", methods=GET)
    async def llmhealth_targets() -> JSONResponse:
        """Return where the GPU machines' agents are, as its `http_sd_configs` read it.

        https://prometheus.io/docs/prometheus/latest/http_sd/
        """
        return JSONResponse(targets(backend.server for backend in backends()))

    @router.api_route("/favicon.ico", methods=GET)
    async def favicon() -> Response:
        """Spare the model servers the browsers' question."""
        return Response(status_code=204)

    return router


def targets(servers: Iterable[Server]) -> list[dict[str, object]]:
    """List the agents of the servers that have one, each labelled with its server's name.

    The label is `machine`: an agent may balance as well, and tell of servers of its own. Of
    several servers on one machine the first gives the name, or its GPUs would count twice.
    """
    found: list[dict[str, object]] = []
    known: set[tuple[str, str | None]] = set()
    for server in servers:
        if server.health_base is None:
            continue
        agent = server.health_base, server.address
        if agent not in known:
            known.add(agent)
            address = urlsplit(server.health_base)
            port = address.port or (443 if address.scheme == "https" else 80)
            host = bracketed(server.address or address.hostname or "")
            labels = {"machine": server.name, "__scheme__": address.scheme}
            found.append({"targets": [f"{host}:{port}"], "labels": labels})
    return found
