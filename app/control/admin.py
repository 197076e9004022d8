"""What operators ask and order: where a request would go, and that a server gets no more.

`access` decides who may use them.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.apis.endpoints import CHAT_PATH
from app.apis.json_body import BadRequest
from app.control.errors import error_response

Explain = Callable[[str, bytes, str, dict[bytes, bytes]], dict[str, Any]]
"""Explains a request: its path, its body, the client's address, its headers."""


log = structlog.get_logger(__name__)


def routes(
    *,
    explain: Explain,
    drain: Callable[[str, bool], None],
    servers: Callable[[], Any],
    max_body_bytes: int,
    reload: Callable[[], Awaitable[dict[str, object]]],
) -> APIRouter:
    """Build the routes. `drain` is told a server's name and whether it shall drain.

    `reload` reads the settings again, and tells what came of it.
    """
    router = APIRouter()

    @router.post("/llmhealth-explain")
    async def llmhealth_explain(request: Request, path: str = CHAT_PATH) -> Response:
        """Return where a request with this body would go; `path` is that of its API."""
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > max_body_bytes:
                return error_response(413, f"the body is longer than {max_body_bytes} bytes")
        fields = dict(request.headers.raw)
        try:
            return JSONResponse(explain(path, body, request.state.address, fields))
        except BadRequest as error:
            return error_response(400, str(error))

    @router.api_route("/llmhealth-drain/{server:path}", methods=["POST", "DELETE"])
    async def llmhealth_drain(server: str, request: Request) -> Response:
        """Send a server no new requests (POST), or send it some again (DELETE).

        Those in flight go on. A restart of the balancer forgets it.
        """
        if server not in (known := list(servers())):
            return error_response(404, f"there is no server {server!r}, but {', '.join(known)}")
        on = request.method == "POST"
        drain(server, on)
        log.info("admin.drain", server=server, on=on, address=request.state.address)
        return JSONResponse({"server": server, "draining": on})

    @router.post("/llmhealth-reload")
    async def llmhealth_reload(request: Request) -> JSONResponse:
        """Take in the settings as they are written now; a mistake in them changes nothing (422)."""
        log.info("admin.reload", address=request.state.address)
        told = await reload()
        return JSONResponse(told, 200 if told["successful"] else 422)

    return router
