"""The models of all servers that have Ollama's API, as its clients ask for them.

https://github.com/ollama/ollama/blob/main/docs/api.md
"""

import asyncio
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app.apis.aliases import Aliases
from app.control.json_bodies import BadBody, json_body
from app.control.routes import GET
from app.keys.key_ring import Key
from app.routing.backend import Backend
from app.routing.balancer import Balancer
from app.routing.catalog import models_by_name
from app.routing.fleet import spelt
from app.upstream.errors import UpstreamError
from app.upstream.http import Client
from app.upstream.pool import Pool

CONNECT_SECONDS: Final = 1.0
READ_SECONDS: Final = 3.0

Facts = dict[str, Any]


class OllamaLists:
    """Asks the servers, and merges what they say; those without Ollama's API say nothing.

    `pools` are the connections to each; `names` returns the names by which servers may know a
    model.
    """

    def __init__(
        self,
        balancer: Balancer,
        pools: Mapping[str, Pool],
        aliases: Aliases,
        names: Callable[[str], Collection[str]],
    ) -> None:
        self._balancer = balancer
        self._pools = pools
        self._aliases = aliases
        self._names = names

    def routes(self) -> APIRouter:
        """Build the routes."""
        router = APIRouter()
        router.add_api_route("/api/tags", self.tags, methods=GET)
        router.add_api_route("/api/ps", self.running, methods=GET)
        router.add_api_route("/api/show", self.show, methods=["POST"])
        router.add_api_route("/api/version", self.version, methods=GET)
        return router

    async def tags(self, request: Request) -> JSONResponse:
        """List the models that the client may use."""
        models = await self._merged("/api/tags", _key_of(request))
        for alias, meant in self._aliases.names.items():
            known = next((x for name in self._names(meant) if (x := spelt(name, models))), None)
            if known is not None and alias not in models:
                models[alias] = models[known] | {"name": alias, "model": alias}
        return JSONResponse({"models": [models[name] for name in sorted(models)]})

    async def running(self, request: Request) -> JSONResponse:
        """List the models that are in memory anywhere."""
        models = await self._merged("/api/ps", _key_of(request))
        return JSONResponse({"models": [models[name] for name in sorted(models)]})

    async def show(self, request: Request) -> Response:
        """Describe a model as the first server does that has it."""
        try:
            body = await json_body(request)
        except BadBody as error:
            return JSONResponse({"error": str(error)}, error.status)
        asked = body.get("model") or body.get("name")
        if not isinstance(asked, str):
            return JSONResponse({"error": "model is required"}, 400)
        key, model = _key_of(request), self._aliases.model(asked)
        if key is None or key.allows(model):
            for backend, name in self._having(model):
                there = {**body, "model": backend.server.name_there(name)}
                there.pop("name", None)
                status, described = await self._ask(backend, "POST", "/api/show", there)
                if status == 200:
                    return Response(described, 200, media_type="application/json")
        return JSONResponse({"error": f"model '{asked[:256]}' not found"}, 404)

    async def version(self) -> JSONResponse:
        """Return the lowest version of Ollama that a server has: clients rely on what it can."""
        pages = await self._pages("/api/version")
        found = [page["version"] for _, page in pages if isinstance(page.get("version"), str)]
        return JSONResponse({"version": min(found, key=_number, default="0.0.0")})

    def _having(self, model: str) -> Iterator[tuple[Backend, str]]:
        """Go through the servers that get requests for a model, and its name at each."""
        names = tuple(self._names(model))
        reached = self._balancer.fleet.candidates(model) or ()
        for backend in self._up():
            if backend.server.name in reached and (listed := backend.listed(names)):
                yield backend, listed[0]

    async def _merged(self, path: str, key: Key | None) -> dict[str, Facts]:
        """Merge the servers' lists by the names that the models have here, the first one's first.

        Further instances of a model are left out, and so is what requests cannot reach.
        """
        pages = await self._pages(path)
        fleet, models = self._balancer.fleet, models_by_name(self._balancer.backends())
        found: dict[str, Facts] = {}
        for backend, page in pages:
            told = page.get("models")
            for facts in told if isinstance(told, list) else ():
                there = facts.get("name") if isinstance(facts, dict) else None
                for name in backend.server.names_here([there]) if isinstance(there, str) else ():
                    reached = backend.server.name in fleet.reached(name)
                    allowed = key is None or key.allows(name)
                    if reached and allowed and models.get(name, name) == name:
                        found.setdefault(name, {**facts, "name": name, "model": name})
        return found

    async def _pages(self, path: str) -> list[tuple[Backend, Facts]]:
        """Ask all servers that are up, at once; what is no JSON object says nothing."""
        backends = self._up()
        answers = await asyncio.gather(*(self._ask(one, "GET", path) for one in backends))
        pages = []
        for backend, (status, body) in zip(backends, answers, strict=True):
            page = _object(body) if status == 200 else None
            if page is not None:
                pages.append((backend, page))
        return pages

    def _up(self) -> list[Backend]:
        return [one for one in self._balancer.backends() if one.health.healthy]

    async def _ask(
        self, backend: Backend, method: str, path: str, body: Facts | None = None
    ) -> tuple[int, bytes]:
        pool = self._pools[backend.server.name]
        client = Client(pool, connect_timeout=CONNECT_SECONDS, silence=READ_SECONDS)
        sent = b"" if body is None else json.dumps(body).encode()
        try:
            return await client.send(method, path, sent, {"content-type": "application/json"})
        except UpstreamError:
            return 0, b""


def _key_of(request: Request) -> Key | None:
    key: Key | None = getattr(request.state, "key", None)
    return key


def _object(body: bytes) -> Facts | None:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _number(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d{1,9}", version)]
