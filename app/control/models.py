"""The models that clients may ask for, as OpenAI's API lists them.

https://platform.openai.com/docs/api-reference/models
"""

from collections.abc import Callable, Collection, Mapping

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from app.control.routes import GET
from app.keys.key_ring import Key
from app.routing.backend import Backend
from app.routing.catalog import facts_of, largest_context, offered
from app.routing.fleet import Fleet

LISTS = ("/v1/models", "/v1/models/", "/models", "/models/")
"""Where clients look for the list; some write a slash too many, some leave the version out."""

OLLAMAS = ("/api/tags", "/api/ps", "/api/show", "/api/version")
"""Where Ollama's clients look."""

ONE = "/v1/models/"
"""What stands before a model's name."""


def is_of_clients(path: str) -> bool:
    """Whether a path tells of models, which is clients' as the models are."""
    return path in LISTS or path in OLLAMAS or path.startswith(ONE)


def routes(
    *,
    backends: Callable[[], Collection[Backend]],
    fleet: Callable[[], Fleet],
    aliases: Mapping[str, Collection[str]],
    resolved: Callable[[str], str],
) -> APIRouter:
    """Build the routes.

    `backends` are those whose lists count; `resolved` gives the model that a name stands for.
    """
    router = APIRouter()

    def listed(request: Request, servers: Collection[Backend]) -> list[str]:
        key: Key | None = getattr(request.state, "key", None)
        return [
            name
            for name in offered(servers, aliases, fleet())
            if key is None or key.allows(resolved(name))
        ]

    def described(name: str, servers: Collection[Backend]) -> dict[str, object]:
        """Describe a model as the first server does that lists it, with the longest context."""
        facts = facts_of([*aliases.get(name, ()), name], servers)
        ours = {"id": name, "object": "model", "created": 0, "owned_by": "llama-balancer"}
        context = largest_context([*aliases.get(name, ()), name], servers)
        told = {} if context is None else {"max_model_len": context, "context_length": context}
        return {**ours, **facts, **told, "id": name}

    async def v1_models(request: Request) -> JSONResponse:
        """List the models that the client may use, as OpenAI's API does."""
        servers = backends()
        data = [described(name, servers) for name in listed(request, servers)]
        return JSONResponse({"object": "list", "data": data})

    for path in LISTS:
        router.add_api_route(path, v1_models, methods=GET)

    @router.api_route(f"{ONE}{{name:path}}", methods=GET)
    async def v1_model(name: str, request: Request) -> JSONResponse:
        """Describe one model, under any name that it has here."""
        servers = backends()
        if name in listed(request, servers):
            return JSONResponse(described(name, servers))
        error = {
            "message": f"there is no model {name[:256]!r}",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
        return JSONResponse({"error": error}, 404)

    return router
