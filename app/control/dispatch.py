"""Who serves a request: what is ours goes to the control endpoints, all others to the proxy."""

from collections import defaultdict
from collections.abc import Collection, Iterable

from fastapi import APIRouter
from fastapi.routing import APIRoute

from app.downstream.connection import ClientConnection, Exchange, Handler, Request


class Dispatch:
    """Tells the control endpoints from what is to be proxied, before any framework runs.

    Only the methods and exactly the paths of the `own` routes are ours; another method of one
    of them, or a path below it, belongs to the model servers.
    """

    def __init__(self, control: Handler, proxy: Handler, own: Iterable[APIRouter]) -> None:
        self._control = control
        self._proxy = proxy
        self._own: dict[str, set[str]] = defaultdict(set)
        self._below: dict[str, set[str]] = defaultdict(set)
        for router in own:
            for route in router.routes:
                if isinstance(route, APIRoute):
                    fixed, parameter, _ = route.path.partition("{")
                    place = self._below if parameter else self._own
                    place[fixed] |= route.methods or set()

    def __call__(self, request: Request, connection: ClientConnection) -> Exchange:
        handler = self._control if self.owns(request.method, request.path) else self._proxy
        return handler(request, connection)

    def owns(self, method: str, path: str) -> bool:
        """Whether a request is for the control endpoints."""
        methods: Collection[str] | None = self._own.get(path)
        if methods is None and path.startswith("/llmhealth-"):
            methods = self._below_of(path)
        return methods is not None and method in methods

    def _below_of(self, path: str) -> Collection[str]:
        """Name the methods of ours for a path whose end is a parameter."""
        return next((m for fixed, m in self._below.items() if path.startswith(fixed)), ())
