"""The live page: everything on it comes from one stream of snapshots."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import structlog
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, StreamingResponse
from jinja2 import Environment, FileSystemLoader

import app

HERE = Path(__file__).parent

MONITOR = "/llmhealth-monitor"

MOST_PINS = 200
"""How many pins the page shows, the newest: ten thousand would take the loop half a second."""

log = structlog.get_logger(__name__)


class Template:
    """A self-contained page, and a policy that lets nothing else run in it."""

    def __init__(self, name: str, script: str = "") -> None:
        self._style = _static("monitor.css")
        self._script = _static(script) if script else ""
        templates = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True)
        self._template = templates.get_template(name)
        self.headers = {
            "cache-control": "no-cache",
            "content-security-policy": (
                f"default-src 'none'; style-src '{_digest(self._style)}'; "
                f"script-src '{_digest(self._script)}'; connect-src 'self'; img-src data:; "
                "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
            ),
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
        }

    def render(self, **facts: object) -> str:
        """Write the page."""
        return self._template.render(
            style=self._style, script=self._script, version=app.__version__, **facts
        )


class Feed:
    """The present state as an event, written once for all who watch."""

    def __init__(
        self,
        snapshot: Callable[[], dict[str, Any]],
        stats: Callable[[], dict[str, object]],
        stopping: asyncio.Event,
        interval: float,
    ) -> None:
        self._snapshot = snapshot
        self._stats = stats
        self._stopping = stopping
        self._interval = interval
        self._event = b""
        self._written_at = -interval

    async def events(self) -> AsyncIterator[bytes]:
        """Yield the state now, and again at every interval until the server stops."""
        while not self._stopping.is_set():
            yield self._present()
            try:
                async with asyncio.timeout(self._interval):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    def _present(self) -> bytes:
        now = asyncio.get_running_loop().time()
        if now - self._written_at >= self._interval / 2:
            self._written_at = now
            try:
                state = {"snapshot": self._snapshot(), "stats": self._stats()}
                self._event = b"data: " + orjson.dumps(state) + b"\n\n"
            except Exception:
                # The page shows that it is not up to date; the next event may be.
                log.exception("monitor.failed")
                self._event = b": no news\n\n"
        return self._event


def routes(
    snapshot: Callable[[], dict[str, Any]],
    stats: Callable[[], dict[str, object]],
    stopping: asyncio.Event,
    *,
    has_session: Callable[[Request], bool] = lambda _: False,
    interval: float = 1.0,
) -> APIRouter:
    """Build the page and its stream; `stopping` ends the streams, `interval` is in seconds.

    `has_session` tells whether a browser has logged in: then it can log out again.
    """
    router = APIRouter()
    template = Template("monitor.html", "monitor.js")
    pages = {session: template.render(session=session) for session in (True, False)}
    feed = Feed(snapshot, stats, stopping, interval)

    @router.api_route(MONITOR, methods=["GET", "HEAD"])
    async def monitor(request: Request) -> HTMLResponse:
        """Show the state to people."""
        return HTMLResponse(pages[has_session(request)], headers=template.headers)

    @router.get(f"{MONITOR}/events")
    async def events() -> StreamingResponse:
        """Stream to the page what is new; a proxy in front of us must not hold it back."""
        return StreamingResponse(
            feed.events(),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )

    return router


def _static(name: str) -> str:
    return (HERE / "static" / name).read_text("utf-8")


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
