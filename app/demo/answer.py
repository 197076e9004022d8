"""An answer on its way out of an ASGI app."""

from collections.abc import Awaitable, Callable
from typing import Any

from app.demo.completion import dumps


class Answer:
    """Writes one answer: as a whole, or as a stream of events."""

    def __init__(self, send: Callable[[Any], Awaitable[None]]) -> None:
        self._send = send

    async def page(self, content: object, status: int = 200) -> None:
        """Answer with a text, or with anything else as JSON."""
        if isinstance(content, str):
            kind, body = b"text/plain; charset=utf-8", content.encode()
        else:
            kind, body = b"application/json; charset=utf-8", dumps(content)
        await self._start(status, kind, (b"content-length", b"%d" % len(body)))
        await self._send({"type": "http.response.body", "body": body})

    async def refuse(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        code: str | None = None,
    ) -> None:
        """Answer with an error in OpenAI's form."""
        error = {"message": message, "type": kind, "param": None, "code": code}
        await self.page({"error": error}, status)

    async def open_stream(self) -> None:
        """Begin a stream of server-sent events."""
        await self._start(200, b"text/event-stream", (b"cache-control", b"no-cache"))

    async def piece(self, event: bytes) -> None:
        """Send an event."""
        await self._send({"type": "http.response.body", "body": event, "more_body": True})

    async def end(self) -> None:
        """End the stream."""
        await self._send({"type": "http.response.body"})

    async def _start(self, status: int, kind: bytes, header: tuple[bytes, bytes]) -> None:
        headers = [(b"content-type", kind), header]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
