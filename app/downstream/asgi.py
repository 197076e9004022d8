"""ASGI applications as handlers of requests: each request is served in a task."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog

from app.apis.errors import error_json
from app.downstream.connection import ClientConnection, Handler, Request

Message = MutableMapping[str, Any]
App = Callable[[Any, Any, Any], Awaitable[None]]

BODY_HELD = 64 * 1024
"""Longest part of a body, in bytes, that is read before the application takes it."""

log = structlog.get_logger(__name__)


def handler(app: App) -> Handler:
    """Return what serves requests by an ASGI application."""
    return lambda request, connection: AsgiExchange(app, request, connection)


class AsgiExchange:
    """Serves one request by an ASGI application (an `Exchange`).

    https://asgi.readthedocs.io/en/latest/specs/www.html, version 2.3: what is sent to a
    client that has left is dropped.
    """

    def __init__(self, app: App, request: Request, connection: ClientConnection) -> None:
        self._request = request
        self._connection = connection
        self._body = bytearray()
        self._complete = self._taken = self._gone = False
        self._arrival = asyncio.Event()
        self._writable = asyncio.Event()
        self._head: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._started = self._finished = False
        tasks = connection.server_state.tasks
        task = asyncio.get_running_loop().create_task(self._run(app))
        task.add_done_callback(tasks.discard)
        tasks.add(task)

    def on_body(self, data: bytes, *, complete: bool) -> None:
        self._body += data
        self._complete = complete
        if len(self._body) > BODY_HELD:
            self._connection.pause()
        self._arrival.set()

    def on_writable(self) -> None:
        self._writable.set()

    def on_client_gone(self) -> None:
        self._gone = True
        self._arrival.set()
        self._writable.set()

    def on_shutdown(self) -> None: ...  # the server cancels the task a moment later

    async def _run(self, app: App) -> None:
        try:
            await app(self._scope(), self._receive, self._send)
        except Exception:
            log.exception("control.failed", path=self._request.path)
        if self._over:
            return
        if self._started:
            self._connection.abort()
        else:
            body = error_json(500, "internal_error", "the balancer failed to respond")
            self._connection.respond(500, [(b"content-type", b"application/json")], body)

    def _scope(self) -> dict[str, Any]:
        request, connection = self._request, self._connection
        transport = connection.transport
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": request.version,
            "server": transport.get_extra_info("sockname"),
            "client": transport.get_extra_info("peername") or None,
            "scheme": connection.scheme,
            "method": request.method,
            "root_path": "",
            "path": request.path,
            "raw_path": request.raw_path,
            "query_string": request.query,
            "headers": request.headers,
            "state": {},
        }

    async def _receive(self) -> Message:
        if not self._complete and not self._body:
            self._connection.send_continue()
        while not (self._body or (self._complete and not self._taken) or self._over):
            self._arrival.clear()
            await self._arrival.wait()
        if self._over:
            return {"type": "http.disconnect"}
        body = bytes(self._body)
        self._body.clear()
        self._connection.resume()
        self._taken = self._complete
        return {"type": "http.request", "body": body, "more_body": not self._complete}

    @property
    def _over(self) -> bool:
        return self._gone or self._finished

    async def _send(self, message: Message) -> None:
        if self._gone:
            return
        connection = self._connection
        if message["type"] == "http.response.start":
            headers = [pair for pair in message["headers"] if pair[0] != b"transfer-encoding"]
            self._head = message["status"], headers
            return
        assert self._head is not None, "a response begins with http.response.start"
        body, more = message.get("body", b""), message.get("more_body", False)
        status, headers = self._head
        keeps_up = True
        if not self._started and not more:
            sized = [pair for pair in headers if pair[0] != b"content-length"]
            connection.respond(status, sized, body)
        elif not self._started:
            keeps_up = connection.start(status, headers, body)
        elif more:
            keeps_up = connection.write(body)
        else:
            connection.finish(body)
        self._started = True
        if not more:
            self._finished = True
            self._arrival.set()
        elif not keeps_up:
            self._writable.clear()
            await self._writable.wait()
