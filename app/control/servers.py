"""The servers, for administrators: to list, and to add, change and remove some while we serve."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.control.errors import error_response
from app.control.json_bodies import BadBody, json_body
from app.discovery.roster import Roster
from app.routing.backend import Backend
from app.settings import ServerSettings, SettingsError

SERVERS: Final = "/llmhealth-servers"
ONE: Final = SERVERS + "/{name:path}"

log = structlog.get_logger(__name__)


class Servers:
    """Responds to orders about servers; `backend` returns one as it stands now."""

    def __init__(self, roster: Roster, backend: Callable[[str], Backend]) -> None:
        self._roster = roster
        self._backend = backend
        self._one_at_a_time = asyncio.Lock()

    def routes(self) -> APIRouter:
        """Build the routes."""
        router = APIRouter()
        router.add_api_route(SERVERS, self.listing, methods=["GET"])
        router.add_api_route(ONE, self.put, methods=["PUT"])
        router.add_api_route(ONE, self.patch, methods=["PATCH"])
        router.add_api_route(ONE, self.remove, methods=["DELETE"])
        return router

    async def listing(self) -> JSONResponse:
        """Return all servers, where each comes from, and what is set for it but for its keys."""
        servers = {name: self._described(name) for name in self._roster.settings.servers}
        return JSONResponse({"servers": servers})

    async def put(self, name: str, request: Request) -> Response:
        """Add a server, or replace one. The body is what BALANCER_SERVERS holds for it."""
        return await self._set(name, request, part=False)

    async def patch(self, name: str, request: Request) -> Response:
        """Change some of what is set for a server; what is null is taken out (RFC 7396)."""
        if self._roster.origin(name) is None:
            return error_response(404, f"there is no server {name!r}")
        return await self._set(name, request, part=True)

    async def remove(self, name: str, request: Request) -> Response:
        """Remove a server that was added. What is in flight there ends as it would have."""
        if name not in self._roster.added.servers:
            whose = self._not_ours(name)
            return whose or error_response(404, f"there is no server {name!r}")
        refusal = await self._change(lambda: self._roster.added.remove(name))
        if refusal is not None:
            return refusal
        self._roster.on_added(name, None)
        log.info("admin.server_removed", server=name, address=request.state.address)
        return Response(status_code=204)

    async def _set(self, name: str, request: Request, *, part: bool) -> Response:
        roster = self._roster
        refusal = self._not_ours(name)
        if refusal is not None:
            return refusal
        try:
            body = await json_body(request)
        except BadBody as error:
            return error_response(error.status, str(error))
        is_new = name not in roster.added.servers
        written = roster.written
        refusal = await self._change(lambda: roster.added.put(name, body, written, part=part))
        if refusal is not None:
            return refusal
        roster.on_added(name, roster.added.body(name))
        log.info("admin.server", server=name, address=request.state.address)
        if roster.origin(name) is None:
            unused = {"server": name, "note": "kept, but not used: another has its address"}
            return JSONResponse(unused, 202)
        return JSONResponse({"server": name, **self._described(name)}, 201 if is_new else 200)

    def _not_ours(self, name: str) -> Response | None:
        """Return the error response where others say what a server is."""
        if name in self._roster.written.servers or self._roster.origin(name) == "settings":
            return error_response(409, f"{name} is set in BALANCER_SERVERS: change it there")
        if self._roster.origin(name) == "agent":
            return error_response(409, f"{name} has joined by itself: its agent says what it is")
        return None

    async def _change(self, order: Callable[[], None]) -> Response | None:
        """Change the servers that were added; return the error response, if there is one."""
        async with self._one_at_a_time:
            try:
                await asyncio.to_thread(order)
            except SettingsError as error:
                return error_response(422, "\n".join(error.mistakes))
            except OSError as error:
                return error_response(507, f"BALANCER_STATE_DIR: {error.strerror or error}")
        self._roster.changed()
        return None

    def _described(self, name: str) -> Mapping[str, object]:
        backend = self._backend(name)
        return {
            "origin": self._roster.origin(name),
            "status": backend.status,
            "in_flight": backend.ledger.total,
            "settings": _written(self._roster.settings.servers[name]),
        }


def _written(told: ServerSettings) -> Mapping[str, object]:
    """Write what is set for a server; keys and headers only as so many stars."""
    return told.model_dump(mode="json", exclude_unset=True)
