"""The control endpoints: what the balancer itself answers."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from app.routing.catalog import offered
from app.routing.choice import Standing

GET = ["GET", "HEAD"]


def routes(
    *,
    health: Callable[[], dict[str, object]],
    snapshot: Callable[[], dict[str, Any]],
    stats: Callable[[], dict[str, object]],
    standings: Callable[[], Iterable[Standing]],
    metrics: Callable[[], Awaitable[bytes]],
    metrics_type: str,
) -> APIRouter:
    """Build the routes over functions that give the present state."""
    router = APIRouter()

    @router.api_route("/llmhealth", methods=GET)
    async def llmhealth() -> JSONResponse:
        """Tell whether this machine's GPUs are busy. Other balancers poll it."""
        return JSONResponse(health())

    @router.api_route("/llmhealth-snapshot", methods=GET)
    async def llmhealth_snapshot() -> JSONResponse:
        """Tell the state of every server, pin and lease."""
        return JSONResponse(snapshot())

    @router.api_route("/access-log-stats", methods=GET)
    async def access_log_stats() -> JSONResponse:
        """Tell who asked for which model in the last hour."""
        return JSONResponse(stats())

    @router.api_route("/v1/models", methods=GET)
    async def v1_models() -> JSONResponse:
        """List the models of all servers, as OpenAI's API does."""
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": "llama-balancer"}
            for name in offered(standings())
        ]
        return JSONResponse({"object": "list", "data": data})

    @router.api_route("/metrics", methods=GET)
    async def prometheus() -> Response:
        """Tell Prometheus."""
        return Response(await metrics(), headers={"content-type": metrics_type})

    @router.api_route("/favicon.ico", methods=GET)
    async def favicon() -> Response:
        """Spare the model servers the browsers' question."""
        return Response(status_code=204)

    return router
