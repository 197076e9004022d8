"""Models in servers' memories, for administrators: to load and unload them."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.control.errors import error_response
from app.routing.backend import Backend
from app.upstream.model_orders import Action, give, understands
from app.upstream.pool import Pool

MODELS: Final = "/llmhealth-models/"

log = structlog.get_logger(__name__)


def routes(backends: Callable[[], Mapping[str, Backend]], pools: Mapping[str, Pool]) -> APIRouter:
    """Build the routes over the servers that there are, by name."""
    router = APIRouter()
    under_way: set[asyncio.Task[Any]] = set()

    @router.api_route(MODELS + "{server:path}", methods=["POST", "DELETE"])
    async def order(server: str, model: str, request: Request) -> Response:
        """Have a server load a model (POST) or unload it (DELETE), as long as that takes.

        The response comes at once: the state shows when it is done, and the log whether it was.
        """
        backend = backends().get(server)
        if backend is None:
            return error_response(404, f"there is no server {server!r}")
        report = backend.self_report
        kind = "" if report is None else report.kind.name
        if report is None or report.loaded is None or not understands(kind):
            return error_response(409, f"{server} loads and unloads no models when it is told to")
        if model not in (backend.models or ()):
            return error_response(404, f"{server} has no model {model!r}")
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
