"""What serves a request: the control endpoints serve their own paths, the proxy all others."""

from collections import defaultdict
from collections.abc import Collection, Iterable

from app.downstream.connection import ClientConnection, Exchange, Handler, Request

PARAMETERS = ("/llmhealth-", "/v1/models/")
"""How our paths begin that end with a parameter."""


class Dispatch:
    """Sends a request to the control endpoints or to the proxy, before any framework runs.

    `own` are the control endpoints' paths, each with its methods. Another method of one of
    them, or a path below it, belongs to the model servers; but where a path ends with a
    parameter in braces, whatever stands in its place belongs to it.
    """

    def __init__(
        self, control: Handler, proxy: Handler, own: Iterable[tuple[str, Collection[str]]]
    ) -> None:
        self._control = control
        self._proxy = proxy
        self._own: dict[str, set[str]] = defaultdict(set)
        self._below: dict[str, set[str]] = defaultdict(set)
        for path, methods in own:
            fixed, parameter, _ = path.partition("{")
            place = self._below if parameter else self._own
            place[fixed].update(methods)

    def __call__(self, request: Request, connection: ClientConnection) -> Exchange:
        handler = self._control if self.owns(request.method, request.path) else self._proxy
        return handler(request, connection)

    def become(self, other: "Dispatch") -> None:
        """Do as another from now on."""
        self._control, self._proxy = other._control, other._proxy
        self._own, self._below = other._own, other._below

    def owns(self, method: str, path: str) -> bool:
        """Whether a request is for the control endpoints."""
        methods: Collection[str] | None = self._own.get(path)
        if methods is None and path.startswith(PARAMETERS):
            methods = self._below_of(path)
        return methods is not None and method in methods

    def _below_of(self, path: str) -> Collection[str]:
        """Name the methods of ours for a path whose end is a parameter."""
        return next((m for fixed, m in self._below.items() if path.startswith(fixed)), ())
