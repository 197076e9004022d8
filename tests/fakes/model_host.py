"""A scripted model server for tests from outside: it lists its models, and does as it is told."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from tests.fakes.sockets import SSE, Message, Visit, chunk, listening, ok

Handle = Callable[[Visit, Message], Awaitable[bytes | None]]
"""Handles a request that is no probe: returns what to send, or None to close the connection."""

COMPLETION = (
    b'{"id":"x","object":"chat.completion","choices":[{"index":0,"finish_reason":"stop",'
    b'"message":{"role":"assistant","content":"hello"}}],'
    b'"usage":{"prompt_tokens":5,"completion_tokens":1}}'
)


async def complete(visit: Visit, message: Message) -> bytes | None:
    """Respond with a completion."""
    return ok(COMPLETION, b"content-type: application/json")


def status(code: int, *headers: bytes, body: bytes = b'{"error":{"message":"no"}}') -> bytes:
    """Write a response of some status."""
    lines = [b"HTTP/1.1 %d X" % code, b"content-type: application/json", *headers]
    return b"\r\n".join([*lines, b"content-length: %d" % len(body)]) + b"\r\n\r\n" + body


def event(text: str = "x") -> bytes:
    """Write one chunk that holds one event of a chat's stream."""
    data = json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]})
    return chunk(f"data: {data}\n\n".encode())


STREAM_END = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


async def stream(visit: Visit, message: Message) -> bytes | None:
    """Respond with a short stream of events."""
    return SSE + event() + STREAM_END


class ModelHost:
    """A model server; GET requests are its probes.

    Attributes:
        seen: the requests that are no probes.
        active, peak: how many of them are handled now, and the most there ever were.
        dialled: connections that were accepted.
        probed: an event that each probe sets.
    """

    def __init__(
        self,
        handle: Handle = complete,
        models: Sequence[str] = ("m",),
        *,
        probe: Handle | None = None,
    ) -> None:
        self.handle = handle
        self.models = models
        self.probe = probe
        self.seen: list[Message] = []
        self.active = self.peak = self.dialled = 0
        self.probed = asyncio.Event()
        self.port = 0

    def limited(self, most: int) -> dict[str, object]:
        """Write the settings of this server with a limit."""
        return {"addr": f"http://127.0.0.1:{self.port}", "request_max": most}

    @contextlib.asynccontextmanager
    async def running(self, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
        """Listen on `port`, or on any; gives the port."""
        async with listening(self._serve, port, tls) as self.port:
            yield self.port

    @property
    def asked_for(self) -> list[str]:
        """The models that requests named, in their order."""
        return [json.loads(message.body)["model"] for message in self.seen]

    async def _serve(self, visit: Visit) -> None:
        self.dialled += 1
        while True:
            message = await visit.message()
            if message.start.startswith("GET "):
                response = await self._answer_probe(visit, message)
                self.probed.set()
            else:
                self.seen.append(message)
                self.active += 1
                self.peak = max(self.peak, self.active)
                try:
                    response = await self.handle(visit, message)
                finally:
                    self.active -= 1
            if response is None:
                return
            await visit.say(response)

    async def _answer_probe(self, visit: Visit, message: Message) -> bytes | None:
        if self.probe is not None:
            return await self.probe(visit, message)
        return self.list_models(message)

    def list_models(self, message: Message) -> bytes:
        """Respond to `GET /v1/models`, and to nothing else."""
        if message.start.split()[1] != "/v1/models":
            return status(404)
        models = [{"id": name, "object": "model"} for name in self.models]
        return ok(json.dumps({"object": "list", "data": models}).encode())
