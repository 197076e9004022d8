"""Logging in, for people: a form, and a session where the admin key is right."""

import asyncio
from collections.abc import Callable, Collection
from time import monotonic
from urllib.parse import parse_qs

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from app.apis.paths import MONITOR
from app.control.dashboard.page import Template
from app.control.errors import error_response
from app.control.session import ELSEWHERE, Sessions, is_from_here
from app.downstream.forwarded import Origin
from app.keys.key_ring import KeyRing
from app.keys.wrong_keys import WrongKeys

LOGIN = "/llmhealth-login"
LOGOUT = "/llmhealth-logout"

LONGEST_FORM = 4096
"""Longest form that is read, in bytes."""

log = structlog.get_logger(__name__)


class LoginPage:
    """The form that asks for the admin key."""

    def __init__(self) -> None:
        self._template = Template("login.html")

    def response(self, path: str, status: int, problem: str = "") -> HTMLResponse:
        """Show the form; `path` is where to go after it."""
        html = self._template.render(action=LOGIN, path=path, problem=problem)
        headers = {**self._template.headers, "cache-control": "no-store"}
        if status == 401:
            headers["www-authenticate"] = "Bearer"  # RFC 9110 section 11.6.1
        return HTMLResponse(html, status, headers)


def routes(
    *,
    page: LoginPage,
    sessions: Sessions,
    keys: KeyRing,
    wrong_keys: WrongKeys,
    origin: Origin,
    pages: Callable[[], Collection[str]],
) -> APIRouter:
    """Build the routes. After logging in one of the `pages` is shown."""
    router = APIRouter()

    def is_secure(request: Request) -> bool:
        peer = request.client.host if request.client else ""
        proto = dict(request.scope["headers"]).get(b"x-forwarded-proto")
        return origin.is_secure(request.url.scheme, peer, proto)

    @router.api_route(LOGIN, methods=["GET", "HEAD"])
    async def form() -> Response:
        """Show the form."""
        return page.response(MONITOR, 200)

    @router.post(LOGIN)
    async def log_in(request: Request) -> Response:
        """Begin a session where the key in the form is right."""
        if not keys.has_admin:
            return error_response(403, "set BALANCER_ADMIN_KEY to allow this")
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > LONGEST_FORM:
                return error_response(413, f"the form is longer than {LONGEST_FORM} bytes")
        form = parse_qs(body.decode(errors="replace"))
        address = request.state.address
        [path] = form.get("path", [MONITOR])[:1]
        path = path if path in pages() else MONITOR
        if not keys.is_admin(form.get("key", [""])[0]):
            await asyncio.sleep(wrong_keys.hold_back(address, monotonic()))
            return page.response(path, 401, "This is not the admin key.")
        log.info("admin.logged_in", address=address)
        cookie = {"set-cookie": sessions.cookie(secure=is_secure(request))}
        return RedirectResponse(path, 303, cookie)

    @router.post(LOGOUT)
    async def log_out(request: Request) -> Response:
        """End the browser's session."""
        if not is_from_here(dict(request.scope["headers"])):
            return error_response(403, ELSEWHERE)
        cookie = {"set-cookie": sessions.farewell(secure=is_secure(request))}
        return RedirectResponse(MONITOR, 303, cookie)

    return router
