"""Machines that join by themselves: what their agents ask."""

import asyncio
import hmac
from collections.abc import Collection
from time import monotonic
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.control.errors import error_response
from app.control.json_bodies import BadBody, json_body
from app.discovery.joined_servers import RENEWAL, Taken, read_servers
from app.discovery.roster import Roster
from app.keys.wrong_keys import WrongKeys
from app.routing.balancer import Balancer
from app.routing.observations import ModelsSeen
from app.settings import SettingsError

JOIN: Final = "/llmhealth-join/"


class Joins:
    """Responds to agents."""

    def __init__(self, roster: Roster, balancer: Balancer, wrong_keys: WrongKeys) -> None:
        self._roster = roster
        self._balancer = balancer
        self._wrong_keys = wrong_keys

    def routes(self) -> APIRouter:
        """Build the routes."""
        router = APIRouter()
        router.add_api_route(JOIN + "{machine:path}", self.join, methods=["PUT"])
        router.add_api_route(JOIN + "{machine:path}", self.leave, methods=["DELETE"])
        return router

    async def join(self, machine: str, request: Request) -> Response:
        """Take in the servers of a machine, or that they are still there.

        The body holds `servers`, each as in BALANCER_SERVERS: a local address is taken for the
        one that the request came from, or for the body's `address`.
        """
        refusal = await self._stranger(request)
        if refusal is not None:
            return refusal
        roster, seen = self._roster, request.state.address
        try:
            body = await json_body(request)
            address, told = _told(body, seen)
            servers = read_servers(told, address, roster.written, roster.kinds)
            roster.joined.join(machine, address, servers)
            self._list_models(body.get("models"), servers)
            roster.on_said(machine, body, seen)
        except BadBody as error:
            return error_response(error.status, str(error))
        except SettingsError as error:
            return error_response(422, "\n".join(error.mistakes))
        except Taken as error:
            return error_response(409, str(error))
        joined = [name for name in servers if roster.origin(name) == "agent"]
        return JSONResponse(
            {
                "address": seen,
                "renewal_seconds": RENEWAL,
                "servers": {name: self._balancer.backend(name).status for name in joined},
            }
        )

    async def leave(self, machine: str, request: Request) -> Response:
        """Send a machine's servers no new requests; return how many are in flight there."""
        refusal = await self._stranger(request)
        if refusal is not None:
            return refusal
        self._roster.on_said(machine, None, request.state.address)
        return JSONResponse({"in_flight": self._roster.joined.leave(machine)})

    def _list_models(self, models: object, servers: Collection[str]) -> None:
        """Believe what a machine says of its servers' models until they were asked."""
        if not isinstance(models, dict):
            return
        for name in servers:
            listed = models.get(name)
            if (
                isinstance(listed, list)
                and self._roster.origin(name) == "agent"
                and self._balancer.backend(name).models is None
            ):
                named = [model for model in listed if isinstance(model, str)]
                self._balancer.observe(ModelsSeen(name, named, {}))

    async def _stranger(self, request: Request) -> Response | None:
        """Return the error response to a client that may not join; None for one that may."""
        token = self._roster.written.join_token
        if token is None or not self._roster.written.lets_join:
            return error_response(403, "set BALANCER_JOIN_TOKEN to let machines join")
        shown = request.headers.get("authorization", "").encode()
        if hmac.compare_digest(shown, f"Bearer {token.get_secret_value()}".encode()):
            return None
        await asyncio.sleep(self._wrong_keys.hold_back(request.state.address, monotonic()))
        return error_response(401, "this needs `Authorization: Bearer` and BALANCER_JOIN_TOKEN")


def _told(body: dict[str, Any], seen: str) -> tuple[str, dict[str, Any]]:
    """Return what a machine calls its address, or else as `seen`, and the servers there.

    Raises:
        BadBody: it holds something else.
    """
    address, servers = body.get("address") or seen, body.get("servers")
    if not (isinstance(servers, dict) and isinstance(address, str)):
        raise BadBody(422, "the body must hold servers, as BALANCER_SERVERS does")
    return address, servers
