"""Models in servers' memories, for administrators: to load and unload them."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.control.errors import error_response
from app.routing.backend import Backend
from app.routing.balancer import Balancer
from app.upstream.model_orders import Action, give, understands
from app.upstream.pool import Pool

MODELS: Final = "/llmhealth-models/"
PINNED: Final = "/llmhealth-pinned/"

log = structlog.get_logger(__name__)


def routes(balancer: Balancer, pools: Mapping[str, Pool]) -> APIRouter:
    """Build the routes over the servers that there are."""
    router = APIRouter()
    under_way: set[asyncio.Task[Any]] = set()

    def found(server: str, model: str) -> Backend | Response:
        """Find the server of a model that comes and goes there, or say what is wrong."""
        if server not in balancer.fleet.servers:
            return error_response(404, f"there is no server {server!r}")
        backend = balancer.backend(server)
        if backend.self_report is None or backend.self_report.loaded is None:
            return error_response(409, f"{server} does not tell which models are in its memory")
        if model not in (backend.models or ()):
            return error_response(404, f"{server} has no model {model!r}")
        return backend

    @router.api_route(PINNED + "{server:path}", methods=["POST", "DELETE"])
    async def pin(server: str, model: str, request: Request) -> Response:
        """Have a model stay in a server's memory (POST), or no longer (DELETE).

        It goes for no other model there while any other server can load that one.
        """
        backend = found(server, model)
        if isinstance(backend, Response):
            return backend
        on = request.method == "POST"
        balancer.pin_model(server, model, on=on)
        address = request.state.address
        log.info("admin.pin", server=server, model=model, on=on, address=address)
        return JSONResponse({"server": server, "model": model, "pinned": on})

    @router.api_route(MODELS + "{server:path}", methods=["POST", "DELETE"])
    async def order(server: str, model: str, request: Request) -> Response:
        """Have a server load a model (POST) or unload it (DELETE), as long as that takes.

        The response comes at once: the state shows when it is done, and the log whether it was.
        """
        backend = found(server, model)
        if isinstance(backend, Response):
            return backend
        report = backend.self_report
        kind = "" if report is None else report.kind.name
        if not understands(kind):
            return error_response(409, f"{server} loads and unloads no models when it is told to")
        action: Action = "load" if request.method == "POST" else "unload"
        address = request.state.address
        log.info("admin.model", action=action, server=server, model=model, address=address)
        there = backend.server.name_there(model)
        work = _carry_out(pools[server], kind, action, there, server)
        task = asyncio.create_task(work, name=f"{action} {model}")
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        return JSONResponse({"server": server, "model": model, "action": action}, 202)

    return router


async def _carry_out(pool: Pool, kind: str, action: Action, model: str, server: str) -> None:
    outcome = await give(pool, kind, action, model)
    if outcome.error:
        error = outcome.error
        log.warning("model.refused", action=action, server=server, model=model, error=error)
    else:
        log.info("model.done", action=action, server=server, model=model)
