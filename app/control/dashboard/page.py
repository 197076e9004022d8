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
from fastapi.responses import HTMLResponse, RedirectResponse, StreamingResponse
from jinja2 import Environment, FileSystemLoader

import app
from app.apis.paths import MONITOR
from app.control.requests import Requests

HERE = Path(__file__).parent

SCRIPTS = (
    "monitor.js",
    "orders.js",
    "requests.js",
    "servers.js",
    "playground.js",
    "usage.js",
    "sections.js",
    "tips.js",
)
"""One after another: each may use what stands before it."""

MOST_ROWS = 200
"""How many pins and requests in flight the page shows: ten thousand take the loop half a second."""

NO_NEWS = b": no news\n\n"
"""A comment: the browser drops it."""

log = structlog.get_logger(__name__)


class Template:
    """A self-contained page, and a policy that lets nothing else run in it."""

    def __init__(self, name: str, *scripts: str) -> None:
        self._style = _static("monitor.css")
        self._script = "\n".join(map(_static, scripts))
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
    """The present state as events, read and written once for all pages.

    A page's first event holds all parts of the snapshot and of the statistics, each later one
    the parts that have changed since the one before.
    """

    def __init__(
        self,
        snapshot: Callable[[], dict[str, Any]],
        stats: Callable[[], dict[str, object]],
        requests: Requests,
        stopping: asyncio.Event,
        interval: float,
    ) -> None:
        self._sources: dict[str, Callable[[], dict[str, Any]]] = {
            "snapshot": snapshot,
            "stats": stats,
            "requests": lambda: {"under_way": requests.under_way(MOST_ROWS)},
        }
        self._requests = requests
        self._stopping = stopping
        self._interval = interval
        self._round = 0
        self._parts: dict[tuple[str, str], tuple[int, bytes]] = {}
        """In which round each part was another than before, and how it is written."""
        self._events: dict[tuple[int, int], bytes] = {}
        """The present state as an event, by the round and the request that a page has seen last."""
        self._last_request = 0
        self._read_at = -interval

    async def events(self) -> AsyncIterator[bytes]:
        """Yield the state now, and what is new at every interval until the server stops."""
        known = seen = 0
        while not self._stopping.is_set():
            try:
                self._read()
                news = self._event(known, seen) if self._parts else NO_NEWS
                known, seen = self._round, self._last_request
            except Exception:
                # The page shows that it is not up to date; the next event may be.
                log.exception("monitor.failed")
                news = NO_NEWS
            yield news
            try:
                async with asyncio.timeout(self._interval):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    def _read(self) -> None:
        """Find the parts that have changed, unless that was done just now."""
        now = asyncio.get_running_loop().time()
        if now - self._read_at < self._interval / 2:
            return
        self._read_at = now
        state = {name: read() for name, read in self._sources.items()}
        self._last_request = self._requests.last
        self._round += 1
        self._events = {}
        for name, parts in state.items():
            for part, value in parts.items():
                written = orjson.dumps(value)
                if self._parts.get((name, part), (0, b""))[1] != written:
                    self._parts[name, part] = self._round, written

    def _event(self, known: int, seen: int) -> bytes:
        """Write the parts that have changed since a round, and the requests since one."""
        if (known, seen) not in self._events:
            news: dict[str, dict[str, object]] = {name: {} for name in self._sources}
            news["requests"]["ended"] = self._requests.ended(seen)
            for (name, part), (changed, written) in self._parts.items():
                if changed > known:
                    news[name][part] = orjson.Fragment(written)
            self._events[known, seen] = b"data: " + orjson.dumps(news) + b"\n\n"
        return self._events[known, seen]


def routes(
    snapshot: Callable[[], dict[str, Any]],
    stats: Callable[[], dict[str, object]],
    requests: Requests,
    stopping: asyncio.Event,
    *,
    has_session: Callable[[Request], bool] = lambda _: False,
    is_home: bool = False,
    interval: float = 1.0,
) -> APIRouter:
    """Build the page and its stream; `stopping` ends the streams, `interval` is in seconds.

    With `is_home` the address itself leads to it.

    `has_session` returns whether a browser has logged in, so that the page can log out.
    """
    router = APIRouter()
    template = Template("monitor.html", *SCRIPTS)
    pages = {session: template.render(session=session) for session in (True, False)}
    feed = Feed(snapshot, stats, requests, stopping, interval)

    @router.api_route(MONITOR, methods=["GET", "HEAD"])
    async def monitor(request: Request) -> HTMLResponse:
        """Show the state to people."""
        return HTMLResponse(pages[has_session(request)], headers=template.headers)

    if is_home:

        @router.api_route("/", methods=["GET", "HEAD"])
        async def home() -> RedirectResponse:
            """Lead to the page."""
            return RedirectResponse(MONITOR, 302)

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
