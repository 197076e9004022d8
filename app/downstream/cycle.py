"""One request over a client's connection and its answer, as uvicorn has them, for less."""

import asyncio
import logging
from typing import TYPE_CHECKING, Any, cast

from uvicorn._types import HTTPScope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

if TYPE_CHECKING:
    from app.downstream.connection import ClientProtocol

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Cork:
    """Sends the head of an answer together with the beginning of its body, in one packet.

    ASGI asks for that: nothing is sent before the first `http.response.body`. uvicorn sends
    the head by itself, at the price of a system call and of a second packet.
    """

    __slots__ = ("_client", "_held", "_open", "_transport")

    def __init__(self, client: "ClientProtocol") -> None:
        self._client = client
        self._transport = client.transport
        self._held: bytes | None = None
        self._open = False

    def write(self, data: bytes) -> None:
        """Write, but keep the first piece, which is the head, until the next."""
        if self._open:
            self._transport.write(data)
        elif self._held is not None:
            self._open = True
            self._transport.write(self._held + data)
        elif data == _CONTINUE:
            self._transport.write(data)
        else:
            self._held = data

    def close(self) -> None:
        """Write what was kept, and close."""
        if self._held is not None and not self._open:
            self.write(b"")
        self._client.close()

    def is_closing(self) -> bool:
        """Whether the transport is closing."""
        return self._transport.is_closing()


class Cycle(RequestResponseCycle):
    """A request and its answer, as uvicorn has it, but made at a third of the cost.

    What most requests never need, an event and a cork, is made where it is needed.
    """

    logger = logging.getLogger("uvicorn.error")
    access_log = False
    disconnected = response_started = response_complete = False
    more_body = True
    chunked_encoding: bool | None = None
    expected_content_length = 0
    _arrival: asyncio.Event | None = None
    _cork: Cork | None = None

    def __init__(
        self, client: "ClientProtocol", scope: dict[str, Any], *, keep_alive: bool, expects: bool
    ) -> None:
        self.client = client
        self.scope = cast("HTTPScope", scope)
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = expects
        self.body = bytearray()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:  # type: ignore[override]
        """What uvicorn adds to every answer."""
        return self.client.server_state.default_headers

    @property
    def flow(self) -> FlowControl:  # type: ignore[override]
        """Who knows whether the client takes more bytes."""
        return self.client.flow

    @property
    def transport(self) -> Any:  # type: ignore[override]
        """Where uvicorn writes to: an answer to HEAD is a head alone, any other gets a cork."""
        if self.scope["method"] == "HEAD":
            return self.client.transport
        if self._cork is None:
            self._cork = Cork(self.client)
        return self._cork

    @property
    def message_event(self) -> asyncio.Event:  # type: ignore[override]
        """Who waits for more of the body, or for the client's leaving."""
        if self._arrival is None:
            self._arrival = asyncio.Event()
            if self.body or not self.more_body or self.disconnected:
                self._arrival.set()
        return self._arrival

    def wake(self) -> None:
        """Let whoever waits look again."""
        if self._arrival is not None:
            self._arrival.set()

    def on_response(self) -> None:
        """Go on with the connection: the answer is complete."""
        self.client.on_response_complete()


class UnchunkedCycle(Cycle):
    """A request of HTTP/1.0, to whose clients chunks are bytes of the body.

    An answer without a length ends with the connection (RFC 9112 section 6.3).
    """

    _measured = True

    async def send(self, message: Any) -> None:
        """Send the next part of the answer."""
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            self._measured = b"content-length" in names
            if not self._measured:
                self.chunked_encoding = False  # uvicorn asks for chunks where this is open
        elif not self._measured:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)
