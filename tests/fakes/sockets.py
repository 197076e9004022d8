"""Raw HTTP over real sockets: scripted servers, and what clients send. Knows nothing of `app`."""

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Script = Callable[["Visit"], Awaitable[None]]
"""What a scripted server does with a connection."""

Cut = Literal["whole", "head and body", "byte by byte"]
"""How TCP cuts what is sent into packets."""

SINGLE_BYTES = 400
"""How many bytes go out one by one, before the rest goes out as a whole."""


def packets(data: bytes, cut: Cut) -> Iterator[bytes]:
    """Cut what is sent into packets."""
    if cut == "whole":
        yield data
        return
    if cut == "head and body":
        head, end, body = data.partition(b"\r\n\r\n")
        yield head + end
        if body:
            yield body
        return
    for place in range(min(len(data), SINGLE_BYTES)):
        yield data[place : place + 1]
    if len(data) > SINGLE_BYTES:
        yield data[SINGLE_BYTES:]


@dataclass
class Message:
    """A message as it came over the wire; header names in lower case."""

    start: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def __getitem__(self, name: str) -> str:
        return next(value for key, value in self.headers if key == name)

    def __contains__(self, name: str) -> bool:
        return any(key == name for key, _ in self.headers)

    @property
    def status(self) -> int:
        return int(self.start.split()[1])


class Visit:
    """One connection, seen from either end."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: Cut = "whole"
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.cut: Cut = cut

    async def head(self) -> Message:
        """Read a head; raises IncompleteReadError at the end of the connection."""
        text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        start, *lines = text[:-4].split("\r\n")
        headers = [
            (name.lower(), value.strip()) for name, _, value in (x.partition(":") for x in lines)
        ]
        return Message(start, headers)

    async def message(self, *, head_only: bool = False) -> Message:
        """Read a head and its body, whole."""
        message = await self.head()
        if head_only:
            return message
        if "content-length" in message:
            message.body = await self.reader.readexactly(int(message["content-length"]))
        elif "transfer-encoding" in message:
            while chunk := await self.chunk():
                message.body += chunk
        return message

    async def chunk(self) -> bytes:
        """Read one chunk; empty at the end."""
        size = int(await self.reader.readuntil(b"\n"), 16)
        data = await self.reader.readexactly(size)
        assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            for packet in packets(piece, self.cut):
                self.writer.write(packet)
                await self.writer.drain()
                if self.cut != "whole":
                    await asyncio.sleep(0)  # the other side reads it

    async def closed(self) -> bytes:
        """Wait until the other side has closed; give what came before."""
        with contextlib.suppress(ConnectionError):
            return await self.reader.read()
        return b""

    def reset(self) -> None:
        """Close with a reset (RFC 9293 section 3.10.7.1), not with an end of the stream."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


def answering(answer: bytes, seen: list[Message] | None = None) -> Script:
    """Write a script that gives the same answer to every request."""

    async def script(visit: Visit) -> None:
        while True:
            message = await visit.message()
            if seen is not None:
                seen.append(message)
            await visit.say(answer)

    return script


def holding(arrived: asyncio.Event, go: asyncio.Event, answer: bytes | None = None) -> Script:
    """Write a script that tells when a request has arrived, and answers when it may."""

    async def script(visit: Visit) -> None:
        await visit.message()
        arrived.set()
        await go.wait()
        await visit.say(ok() if answer is None else answer)

    return script


SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def ok(body: bytes = b"{}", *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@contextlib.asynccontextmanager
async def listening(
    script: Script, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Run a scripted server; gives its port. A fault in the script fails the test."""
    visits: set[asyncio.Task[None]] = set()
    faults: list[BaseException] = []

    async def visited(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        visits.add(task)
        try:
            await script(Visit(reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        except BaseException as fault:  # noqa: BLE001 - told below
            faults.append(fault)
        finally:
            visits.discard(task)
            writer.close()

    server = await asyncio.start_server(
        visited, "127.0.0.1", port, limit=1 << 24, backlog=4096, ssl=tls
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(visits):
            task.cancel()
        await asyncio.gather(*visits, return_exceptions=True)
    if faults:
        raise faults[0]


@contextlib.contextmanager
def refusing() -> Iterator[int]:
    """Hold a port on which nothing listens, so that nobody else gets it meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        yield port


async def until(condition: Callable[[], object]) -> None:
    """Let everything else go on until a condition holds."""
    while not condition():
        await asyncio.sleep(0)


def post(body: bytes, path: bytes = b"/v1/chat/completions", *headers: bytes) -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"host: balancer", b"content-length: %d" % len(body)]
    return b"\r\n".join([*lines, *headers]) + b"\r\n\r\n" + body


def chat(model: str = "m", client: str = "", address: str = "", **more: object) -> bytes:
    system = [{"role": "system", "content": f"name is {client}"}] if client else []
    body = {"model": model, "messages": [*system, {"role": "user", "content": "hi"}], **more}
    headers = [f"x-forwarded-for: {address}".encode()] if address else []
    return post(json.dumps(body).encode(), b"/v1/chat/completions", *headers)


def bearer(key: str) -> bytes:
    """Write the header by which a client shows its key (RFC 6750 section 2.1)."""
    return f"authorization: Bearer {key}".encode()


UPGRADE = (
    b"connection: Upgrade",
    b"upgrade: websocket",
    b"sec-websocket-version: 13",
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
)
"""Headers that ask for a WebSocket (RFC 6455 section 1.3)."""

SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-accept: x\r\n\r\n"
)
"""The response of a server that opens one."""


def get(path: bytes, *headers: bytes, method: bytes = b"GET") -> bytes:
    return b"\r\n".join(
        [method + b" " + path + b" HTTP/1.1", b"host: balancer", *headers, b"", b""]
    )
