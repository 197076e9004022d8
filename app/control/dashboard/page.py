"""The live page: everything on it comes from one stream of snapshots."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import structlog
from fastapi import APIRouter
from fastapi.responses import HTMLResponse, StreamingResponse
from jinja2 import Environment, FileSystemLoader

import app

HERE = Path(__file__).parent

MOST_PINS = 200
"""How many pins the page shows, the newest: ten thousand would take the loop half a second."""

log = structlog.get_logger(__name__)


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
    interval: float = 1.0,
) -> APIRouter:
    """Build the page and its stream; `stopping` ends the streams, `interval` is in seconds."""
    router = APIRouter()
    page, policy = _page()
    headers = {
        "cache-control": "no-cache",
        "content-security-policy": policy,
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    feed = Feed(snapshot, stats, stopping, interval)

    @router.api_route("/llmhealth-monitor", methods=["GET", "HEAD"])
    async def monitor() -> HTMLResponse:
        """Show the state to people."""
        return HTMLResponse(page, headers=headers)

    @router.get("/llmhealth-monitor/events")
    async def events() -> StreamingResponse:
        """Stream to the page what is new; a proxy in front of us must not hold it back."""
        return StreamingResponse(
            feed.events(),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )

    return router


def _page() -> tuple[str, str]:
    """Render the page, self-contained, and the policy that lets nothing else run in it."""
    style = (HERE / "static" / "monitor.css").read_text("utf-8")
    script = (HERE / "static" / "monitor.js").read_text("utf-8")
    templates = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True)
    page = templates.get_template("monitor.html").render(
        style=style, script=script, version=app.__version__
    )
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return page, policy


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
