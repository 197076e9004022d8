"""Who may use the control endpoints: an ASGI application around them."""

from typing import Any

from fastapi.responses import Response

from app.control.errors import error_response
from app.downstream.asgi import App
from app.keys.key_ring import KeyRing

OPEN = frozenset({"/llmhealth", "/favicon.ico"})
"""Paths that nobody needs a key for: other balancers poll the first."""

CLIENTS = frozenset({"/v1/models"})
"""Paths that are clients' as the models are."""


def guarded(app: App, keys: KeyRing) -> App:
    """Return the application for those who may use it; it finds the key in the request's state.

    Where clients need keys, all but `OPEN` and `CLIENTS` needs the admin key, whatever address
    a request comes from: a tunnel's is this machine's own.
    """

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        if not keys.required or path in OPEN:
            await app(scope, receive, send)
            return
        key = keys.find(dict(scope["headers"]))
        if key is None or not (key.admin or path in CLIENTS):
            await _refusal(path, known=key is not None, keys=keys)(scope, receive, send)
            return
        scope["state"]["key"] = key
        await app(scope, receive, send)

    return serve


def _refusal(path: str, *, known: bool, keys: KeyRing) -> Response:
    if path in CLIENTS:
        return error_response(401, "this needs an API key")
    if not keys.has_admin:
        return error_response(403, "set BALANCER_ADMIN_KEY to allow this")
    if known:
        return error_response(403, "this needs the admin key")
    message = "this needs BALANCER_ADMIN_KEY, as a bearer's token or as a password"
    # Browsers ask people for a password, and send it with the page's event stream as well.
    return error_response(401, message, 'Basic realm="llama-balancer"')
