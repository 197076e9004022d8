"""The control endpoints: what the balancer itself answers."""

import asyncio
import gzip
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.routing.backend import Backend
from app.routing.fleet import Server
from app.settings.listening import bracketed
from app.telemetry import exposition

GET = ["GET", "HEAD"]

READY: Final = "/llmhealth-ready"

LEVEL: Final = 1
"""How hard gzip tries: the text is nine times as short, and more would cost more than it saves."""


def routes(
    *,
    health: Callable[[], dict[str, object]],
    unready: Callable[[], str],
    snapshot: Callable[[], dict[str, Any]],
    stats: Callable[[], dict[str, object]],
    backends: Callable[[], Iterable[Backend]],
    metrics: Callable[[str], Awaitable[bytes]],
) -> APIRouter:
    """Build the routes over functions that give the present state.

    `unready` says why requests should go to another balancer, if so.
    """
    router = APIRouter()

    @router.api_route("/llmhealth", methods=GET)
    async def llmhealth() -> JSONResponse:
        """Return whether this machine's GPUs are busy. Other balancers poll it."""
        return JSONResponse(health())

    @router.api_route(READY, methods=GET)
    async def llmhealth_ready() -> JSONResponse:
        """Return whether requests may come: 503 once it stops, and while no server is up.

        https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/
        """
        reason = unready()
        told = {"ready": False, "reason": reason} if reason else {"ready": True}
        return JSONResponse(told, 503 if reason else 200)

    @router.api_route("/llmhealth-snapshot", methods=GET)
    async def llmhealth_snapshot() -> JSONResponse:
        """Return the state of every server, pin and lease."""
        return JSONResponse(snapshot())

    @router.api_route("/access-log-stats", methods=GET)
    async def access_log_stats() -> JSONResponse:
        """Return who asked for which model in the last hour."""
        return JSONResponse(stats())

    @router.api_route("/metrics", methods=GET)
    async def prometheus(request: Request) -> Response:
        """Return the metrics, as Prometheus reads them; it asks for them compressed."""
        kind = exposition.content_type(request.headers.get("accept", ""))
        body = await metrics(kind)
        headers = {"content-type": kind, "vary": "accept, accept-encoding"}
        if takes_gzip(request.headers.get("accept-encoding", "")):
            body = await asyncio.to_thread(gzip.compress, body, LEVEL, mtime=0)
            headers["content-encoding"] = "gzip"
        return Response(body, headers=headers)

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


def takes_gzip(accepted: str) -> bool:
    """Whether a client takes what is compressed by gzip (RFC 9110 section 12.5.3)."""
    for part in accepted.lower().split(","):
        coding, _, weight = part.partition(";")
        if coding.strip() == "gzip":
            return not re.fullmatch(r"\s*q=0(\.0*)?\s*", weight)
    return False


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
