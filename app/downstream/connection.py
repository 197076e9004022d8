"""A client's connection: uvicorn's protocol, with what it lacks for a proxy."""

import asyncio
import functools
from typing import Any, Protocol, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.apis.errors import error_json
from app.downstream.cycle import Cycle, UnchunkedCycle
from app.downstream.flow import Flow
from app.downstream.lingering_close import Linger
from app.downstream.patience import Patience
from app.downstream.upgrade import parse

CLIENT = "llama_balancer.client"
"""ASGI extension: the `ClientProtocol` that a request came over."""

PIPELINE_LIMIT = 100
"""How many requests may wait behind the one that is served."""

_ASGI = {"version": "3.0", "spec_version": "2.3"}


class App(Protocol):
    """An ASGI callable that can serve some requests without a task."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request."""

    def at_once(self, scope: Any, receive: Any, send: Any, body: bytes) -> bool:
        """Serve a request whose body is there, by callbacks; False to be called instead."""


class TooManyPipelined(Exception):
    """There are as many requests behind the present one as may be."""


class Watcher(Protocol):
    """Hears how it goes with the connection that its request came over."""

    def client_left(self) -> None:
        """Learn that the client has closed its connection."""

    def cut_short(self) -> None:
        """Come to an end now: the balancer stops."""


class ClientProtocol(HttpToolsProtocol):
    """A client's connection.

    - A request whose body came with its head needs no task, if the app can do without one.
    - A request hears when the client leaves, if it asks for that: `watch`. uvicorn tells those
      who wait for it, and of pipelined requests the newest only.
    - Trailers of a chunked request are dropped. uvicorn adds them to the headers, where they
      could pass for what a proxy in front of us has checked (RFC 9110 section 6.5.1).
    - A connection can be taken over by another protocol: `take_over`.
    - It has no timer of its own, to be set and cancelled with each request: the server checks
      its `patience` now and then, which ends what has come to a standstill.
    - What it keeps of a client has bounds: the head of a request, requests that are pipelined.
    """

    # In uvicorn's dictionary of the instance they would make it outgrow the keys that all
    # instances share, at the price of 1.5 KB for each connection.
    __slots__ = (
        "_begun",
        "_running",
        "_task",
        "left",
        "patience",
        "primes",
        "watcher",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pipeline = []  # type: ignore[assignment]  # an empty deque takes 0.8 KB
        self.left = False
        """Whether a task was cancelled because the client left."""
        self.watcher: Watcher | None = None
        """Whom the present request's end concerns."""
        self.patience = Patience(self.loop.time())
        """How long this client is waited for."""
        self._begun: App | None = None
        self.primes = False
        """Whether the parser is given a head that was heard already."""
        self._running: Cycle | None = None
        self._task: asyncio.Task[None] | None = None

    def watch(self, watcher: Watcher) -> None:
        """Tell the watcher of the present request when the client leaves, or that it has."""
        self.watcher = watcher
        refused = self._running is not None and self._running.disconnected
        if refused or self.transport.is_closing():
            self._leave()

    def unwatch(self, watcher: Watcher) -> None:
        """Tell a watcher nothing any more: its answer is complete.

        By then somebody else may be watching: the next request, if it was pipelined.
        """
        if self.watcher is watcher:
            self.watcher = None

    def cancel(self, *, left: bool) -> None:
        """Cancel the task of the present request, if only since the client has left."""
        task, self._task = self._task, None
        if task is not None:
            self.left = left
            task.cancel()

    def cut_short(self) -> None:
        """Have the present request end now, in its own words."""
        watcher, self.watcher = self.watcher, None
        if watcher is not None:
            self.pipeline.clear()
            watcher.cut_short()

    def run(self, app: Any) -> None:
        """Serve the present request by an ASGI callable, in a task."""
        assert self._running is not None
        self._task = task = self.loop.create_task(self._running.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def reply(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        """Write an answer that is there as a whole; False where it needs uvicorn's `send`.

        That would cost twice as much, and most answers that are no streams come like this.
        The headers must be as a parser has let them through, without a length.
        """
        cycle = self._running
        if (
            cycle is None
            or cycle.response_started
            or cycle.disconnected
            or not cycle.keep_alive
            or cycle.more_body
            or status in (204, 304)
            or cycle.scope["method"] == "HEAD"
            or self.flow.write_paused
        ):
            return False
        cycle.response_started = cycle.response_complete = True
        lines = [STATUS_LINE[status]]
        lines += [b"%b: %b\r\n" % pair for pair in headers]
        lines += (b"content-length: %d\r\n\r\n" % len(body), body)
        self.transport.write(b"".join(lines))
        cycle.wake()
        self.on_response_complete()
        return True

    def pass_on(self, piece: bytes) -> bool:
        """Write the next piece of a chunked answer; False where it needs uvicorn's `send`."""
        cycle = self._running
        if (
            cycle is None
            or not cycle.chunked_encoding
            or cycle.response_complete
            or cycle.disconnected
            or self.flow.write_paused
        ):
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        return True

    def refuse(self, status: int, message: str) -> None:
        """Close the connection; with an error in OpenAI's form where an answer may stand now."""
        # Mostly no request has begun yet that would have a line of its own.
        self.logger.warning("refused %s: %s", self.client[0] if self.client else "", message)
        cycle = self._running
        waits = cycle is None or cycle.response_complete or self._begun is not None
        if waits or (cycle is not None and cycle.more_body and not cycle.response_started):
            body = error_json(status, "invalid_request_error", message)
            self.transport.write(
                STATUS_LINE[status] + b"content-type: application/json\r\nconnection: close\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(body), body)
            )
        self._begun = None
        if cycle is not None:
            cycle.disconnected = True  # uvicorn must not answer any more
            cycle.wake()
        self.patience.rest()
        self._linger()
        self._leave()

    def close(self) -> None:
        """Close the connection, once the client has read what it was told."""
        if self.cycle.more_body:
            self._linger()
        else:
            self.transport.close()

    def take_over(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Give the connection to another protocol."""
        self.cycle.disconnected = True  # uvicorn must not answer any more
        self.connections.discard(self)
        self.flow.resume_reading()
        self.transport.set_protocol(protocol)
        return self.transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.wake()
        self._leave()

    def data_received(self, data: bytes) -> None:
        try:
            parse(self, data)
        except httptools.HttpParserError as error:
            too_many = isinstance(error.__context__, TooManyPipelined)
            self.refuse(400, str(error.__context__) if too_many else "this is not HTTP")
            return
        app, self._begun = self._begun, None
        if app is None:
            self.patience.hear(self, len(data))
        elif not self._serve_at_once(app):
            self.run(app)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.patience.halt(self.loop.time(), self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        self.patience.resume()

    # What httptools calls, instead of uvicorn's

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        if self.primes:
            return
        parser = self.parser
        version = parser.get_http_version()
        path, raw_path, query = _target(self.url)
        scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": parser.get_method().decode("ascii"),
            "root_path": "",
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self.headers,
            "state": self.app_state.copy(),
            "extensions": {CLIENT: self},
        }
        self.headers = []  # where trailers go
        self.patience.rest()
        self.patience.moved = True
        before = self.cycle
        made = Cycle if version == "1.1" else UnchunkedCycle
        self.cycle = cycle = made(
            self,
            scope,
            keep_alive=version == "1.1" and parser.should_keep_alive(),
            expects=self.expect_100_continue,
        )
        if before is None or before.response_complete:
            self._running = cycle
            self._begun = cast("App", self.app)
        else:  # pipelined
            if len(self.pipeline) >= PIPELINE_LIMIT:
                raise TooManyPipelined(f"more than {PIPELINE_LIMIT} requests wait for their turn")
            # We read on, to hear when the client leaves.
            self.pipeline.insert(0, (cycle, self.app))

    def on_body(self, body: bytes) -> None:
        self.patience.moved = True
        cycle = cast("Cycle", self.cycle)
        if not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.wake()

    def on_message_complete(self) -> None:
        cycle = cast("Cycle", self.cycle)
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.wake()

    # What uvicorn calls

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._running = cast("Cycle", cycle)
            self.run(app)
            if cycle.more_body:
                self.patience.wait(self.loop.time())
        else:
            self.patience.wait(self.loop.time())

    # Inside

    def _linger(self) -> None:
        if not self.transport.is_closing() and self.transport.get_protocol() is self:
            Linger(self.transport, self)

    def _serve_at_once(self, app: App) -> bool:
        cycle = self._running
        if cycle is None or self.transport.is_closing():
            return False
        if cycle.more_body:
            self.patience.wait(self.loop.time())
            return False
        if not app.at_once(cycle.scope, cycle.receive, cycle.send, bytes(cycle.body)):
            return False
        cycle.body.clear()
        self.flow.resume_reading()  # a long body may have paused it
        return True

    def _leave(self) -> None:
        watcher, self.watcher = self.watcher, None
        if watcher is not None:
            watcher.client_left()


@functools.lru_cache(256)
def _target(url: bytes) -> tuple[str, bytes, bytes]:
    """Take a request's target apart: its path as text and as it came, and its query.

    Raises:
        HttpParserInvalidURLError: it is none.
    """
    parsed = httptools.parse_url(url)
    return unquote(parsed.path.decode("ascii")), parsed.path, parsed.query or b""
