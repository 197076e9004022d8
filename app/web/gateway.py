"""The outermost ASGI callable: what is ours goes to FastAPI, everything else to the relay."""

from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute


class Gateway:
    """Tells the control endpoints from what is to be proxied, before any framework runs.

    Only GET and HEAD of exactly the paths of the `own` routes are ours; a POST to one of them,
    or a path below it, belongs to the model servers.
    """

    def __init__(self, control: Any, relay: Any, own: Iterable[APIRouter]) -> None:
        self._control = control
        self._relay = relay
        self._own = frozenset(
            route.path for router in own for route in router.routes if isinstance(route, APIRoute)
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            if scope["path"] in self._own and scope["method"] in ("GET", "HEAD"):
                await self._control(scope, receive, send)
            else:
                await self._relay(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._control(scope, receive, send)
