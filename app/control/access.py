"""Who may use the control endpoints: an ASGI application around them."""

import asyncio
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from time import monotonic
from typing import Any

from fastapi.responses import Response

from app.control.errors import error_response
from app.control.joins import JOIN
from app.control.login import LOGIN, LOGOUT, LoginPage
from app.control.model_orders import MODELS, PINNED
from app.control.models import is_of_clients
from app.control.requests import REQUESTS
from app.control.routes import READY
from app.control.servers import SERVERS
from app.control.session import ELSEWHERE, Sessions, is_from_here
from app.downstream.asgi import App
from app.downstream.forwarded import Network, Origin
from app.downstream.hosts import Hosts
from app.keys.key_ring import Key, KeyRing
from app.keys.wrong_keys import WrongKeys
from app.proxy.cors import Cors, Headers
from app.proxy.headers import joined

OPEN = frozenset({"/", "/llmhealth", READY, "/favicon.ico", LOGIN, LOGOUT})
"""Paths that nobody needs a key for: other balancers and probes poll some."""

METRICS = frozenset({"/metrics", "/llmhealth-targets"})
"""Paths that the metrics key opens: what Prometheus reads."""

ORDERS = ("/llmhealth-drain/", "/llmhealth-reload", f"{REQUESTS}/", MODELS, PINNED, SERVERS)
"""How paths begin that need the admin key, whether clients need keys or not."""

SAFE = frozenset({"GET", "HEAD"})
"""Methods that change nothing (RFC 9110 section 9.2.1)."""


class Access:
    """Decides who may use which control endpoint.

    Where clients need keys, all but `OPEN` and the lists of models needs the admin key or a session
    that began with it, whatever address a request comes from: a tunnel's is this machine's own.
    `opened` paths are open to those whose connection comes from one of their networks.
    """

    def __init__(
        self,
        keys: KeyRing,
        sessions: Sessions,
        origin: Origin,
        wrong_keys: WrongKeys,
        page: LoginPage,
        opened: Mapping[str, Iterable[Network]],
        *,
        hosts: Hosts | None = None,
        cors: Cors | None = None,
    ) -> None:
        self._hosts = hosts or Hosts()
        self._cors = cors or Cors()
        self._keys = keys
        self._sessions = sessions
        self._origin = origin
        self._wrong_keys = wrong_keys
        self._page = page
        self._opened = {path: tuple(networks) for path, networks in opened.items()}

    def guarded(self, app: App) -> App:
        """Return the application behind the check; the request's state gets its key and address."""

        async def serve(scope: Any, receive: Any, send: Any) -> None:
            headers = dict(scope["headers"])
            peer = scope["client"][0] if scope["client"] else ""
            chain = joined(scope["headers"], b"x-forwarded-for")
            scope["state"]["address"] = address = self._origin.client(peer, chain or None)
            key = self._keys.find(headers)
            scope["state"]["key"] = key
            if is_of_clients(scope["path"]) and b"origin" in headers:
                granted = self._cors.grant(headers[b"origin"], headers.get(b"host", b""))
                send = _granting(send, granted)
            refusal = self._refusal(scope["method"], scope["path"], headers, peer, key)
            if refusal is None:
                await app(scope, receive, send)
                return
            if key is None and refusal.status_code == 401 and self._keys.shown(headers):
                await asyncio.sleep(self._wrong_keys.hold_back(address, monotonic()))
            await refusal(scope, receive, send)

        return serve

    def _refusal(
        self, method: str, path: str, headers: Mapping[bytes, bytes], peer: str, key: Key | None
    ) -> Response | None:
        """Return the error response to a request that is not allowed; None for one that is."""
        if path.startswith(JOIN):
            return None  # it has a token of its own
        host = headers.get(b"host", b"")
        if path not in OPEN and not self._hosts.allow(host):
            name = host.decode("latin-1")
            return error_response(403, f'"{name}" is no name of ours: BALANCER_ALLOWED_HOSTS')
        if self._is_open(path, peer):
            return None
        if is_of_clients(path):
            return None if key is not None else error_response(401, "this needs an API key")
        if path in METRICS and self._keys.opens_metrics(headers):
            return None
        shows_key = key is not None and key.admin
        if not (shows_key or self._sessions.opens(headers)):
            return self._unknown(method, path, headers, key)
        by_itself = not shows_key or headers.get(b"authorization", b"")[:6].lower() == b"basic "
        # Browsers send a cookie or a password with whatever a page from elsewhere makes them ask.
        if by_itself and method not in SAFE and not is_from_here(headers):
            return error_response(403, ELSEWHERE)
        return None

    def _is_open(self, path: str, peer: str) -> bool:
        """Whether anybody may ask for a path, or anybody at an address."""
        if path.startswith(ORDERS):
            return False
        guarded = self._keys.required or (path in METRICS and self._keys.has_metrics)
        if not guarded or path in OPEN:
            return True
        networks = self._opened.get(path)
        if networks is None:
            return False
        try:
            address = ip_address(peer.partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in networks)

    def _unknown(
        self, method: str, path: str, headers: Mapping[bytes, bytes], key: Key | None
    ) -> Response:
        """Return the error response, or the login form, to a client without the admin key."""
        if not (self._keys.has_admin or (path in METRICS and self._keys.has_metrics)):
            return error_response(403, "set BALANCER_ADMIN_KEY to allow this")
        if method == "GET" and b"text/html" in headers.get(b"accept", b""):
            return self._page.response(path, 401)
        if key is not None:
            return error_response(403, "this needs the admin key")
        return error_response(401, "this needs `Authorization: Bearer` and BALANCER_ADMIN_KEY")


def _granting(send: Any, granted: Headers) -> Any:
    """Return what sends a response that a page may read."""

    async def send_on(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *granted]
        await send(message)

    return send_on
