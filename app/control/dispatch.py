"""The outermost ASGI callable: what is ours goes to FastAPI, everything else to the relay."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute


class Gateway:
    """Tells the control endpoints from what is to be proxied, before any framework runs.

    Only the methods and exactly the paths of the `own` routes are ours; another method of one
    of them, or a path below it, belongs to the model servers.
    """

    def __init__(self, control: Any, relay: Any, own: Iterable[APIRouter]) -> None:
        self._control = control
        self._relay = relay
        self._own: dict[str, set[str]] = defaultdict(set)
        self._below: dict[str, set[str]] = defaultdict(set)
        for router in own:
            for route in router.routes:
                if isinstance(route, APIRoute):
                    fixed, parameter, _ = route.path.partition("{")
                    place = self._below if parameter else self._own
                    place[fixed] |= route.methods or set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            methods = self._own.get(path) or (path[:11] == "/llmhealth-" and self._methods(path))
            if methods and scope["method"] in methods:
                await self._control(scope, receive, send)
            else:
                await self._relay(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._control(scope, receive, send)

    def at_once(self, scope: Any, receive: Any, send: Any, body: bytes) -> bool:
        """Serve a model request without a task, if that can be; its path is never ours."""
        done: bool = self._relay.at_once(scope, receive, send, body)
        return done

    def _methods(self, path: str) -> Collection[str]:
        """Name the methods of ours for a path whose end is a parameter."""
        return next((m for fixed, m in self._below.items() if path.startswith(fixed)), ())
