"""A request's body: read as a whole, or passed on as it comes."""

from typing import Any

from app.telemetry.record import Record
from app.upstream.connection import Connection


class ClientLeft(Exception):
    """The client closed its connection."""


class BodyTooLarge(Exception):
    """The body is longer than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit


async def read_body(receive: Any, length: bytes | None, limit: int) -> bytes:
    """Read the whole body, whose `length` may have been told, from ASGI's `receive`.

    Raises:
        BodyTooLarge: it is longer than `limit` bytes.
        ClientLeft: the client closed its connection.
    """
    if length is not None and int(length) > limit:
        raise BodyTooLarge(limit)
    parts = []
    size, more = 0, True
    while more and size <= limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
    if size > limit:
        raise BodyTooLarge(limit)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def pass_body_on(
    receive: Any, connection: Connection, record: Record, *, chunked: bool
) -> None:
    """Stream the body to a server, in chunks of HTTP if `chunked`, no faster than it reads."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        data = message.get("body", b"")
        record.size += len(data)
        more = message.get("more_body", False)
        if chunked:
            data = (b"%x\r\n%b\r\n" % (len(data), data)) if data else b""
            if not more:
                data += b"0\r\n\r\n"
        if data or not more:
            connection.send(data, last=not more)
            await connection.drain()
