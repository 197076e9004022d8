"""The relay in front of scripted servers, over real sockets, all in one event loop."""

import asyncio
import contextlib
import functools
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import ip_network

import uvicorn

from app.routing.balancer import Balancer
from app.routing.fleet import Fleet, Server
from app.telemetry.record import Record
from app.upstream.pool import Pool
from app.web.client import ClientProtocol
from app.web.headers import Origin
from app.web.model_request import ModelRequest, Reading, username_finder
from app.web.relay import Relay
from app.web.rewrites import Rewrites
from app.web.server import Server as WebServer
from app.web.waiting import WaitingRoom
from tests.fakes.clock import Clock

Script = Callable[["Visit"], Awaitable[None]]
"""What a scripted server does with a connection."""


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

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

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
        size = int(await self.reader.readline(), 16)
        data = await self.reader.readexactly(size)
        assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def closed(self) -> bytes:
        """Wait until the other side has closed; give what came before."""
        with contextlib.suppress(ConnectionError):
            return await self.reader.read()
        return b""

    def reset(self) -> None:
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
async def listening(script: Script) -> AsyncIterator[int]:
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

    server = await asyncio.start_server(visited, "127.0.0.1", 0, limit=1 << 20)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(visits):
            task.cancel()
        await asyncio.gather(*visits, return_exceptions=True)
    if faults:
        raise faults[0]


def closed_port() -> int:
    """Find a port on which nothing listens."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until(condition: Callable[[], object]) -> None:
    """Let everything else go on until a condition holds."""
    while not condition():
        await asyncio.sleep(0)


@dataclass
class Stack:
    """The relay, and everything that it uses."""

    balancer: Balancer
    waiting: WaitingRoom
    pools: dict[str, Pool]
    server: WebServer = field(init=False)
    port: int = 0
    records: list[Record] = field(default_factory=list)
    _done: asyncio.Event = field(default_factory=asyncio.Event)

    def finished(self, record: Record) -> None:
        self.records.append(record)
        self._done.set()

    async def record(self, number: int = 1) -> Record:
        """Wait until so many requests have ended; give the last of them."""
        while len(self.records) < number:
            self._done.clear()
            await self._done.wait()
        return self.records[number - 1]

    @property
    def clients(self) -> list[ClientProtocol]:
        return [c for c in self.server.server_state.connections if isinstance(c, ClientProtocol)]

    def after(self, seconds: float) -> None:
        """Have the server look after its clients as if so much time had passed."""
        self.server.check_clients(asyncio.get_running_loop().time() + seconds)

    @property
    def in_flight(self) -> int:
        return sum(standing.ledger.total for standing in self.balancer.standings())

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Visit]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        try:
            yield Visit(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def ask(self, request: bytes) -> Message:
        """Send one request and read its answer."""
        async with self.client() as client:
            await client.say(request)
            return await client.message(head_only=request.startswith(b"HEAD "))


def post(body: bytes, path: bytes = b"/v1/chat/completions", *headers: bytes) -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"host: balancer", b"content-length: %d" % len(body)]
    return b"\r\n".join([*lines, *headers]) + b"\r\n\r\n" + body


def chat(model: str = "m", client: str = "", **more: object) -> bytes:
    import json

    system = [{"role": "system", "content": f"name is {client}"}] if client else []
    body = {"model": model, "messages": [*system, {"role": "user", "content": "hi"}], **more}
    return post(json.dumps(body).encode())


def get(path: bytes, *headers: bytes, method: bytes = b"GET") -> bytes:
    return b"\r\n".join(
        [method + b" " + path + b" HTTP/1.1", b"host: balancer", *headers, b"", b""]
    )


@contextlib.asynccontextmanager
async def relaying(
    *ports: int,
    request_max: int | None = None,
    capacity: int = 100,
    queue_timeout: float = 30.0,
    max_body_bytes: int = 1 << 20,
    trusted: tuple[str, ...] = (),
    keepalive: float = 0.0,
    routed_paths: tuple[str, ...] = ("/v1/chat/completions",),
    scheme: str = "http",
    **timeouts: float,
) -> AsyncIterator[Stack]:
    """Run the relay in front of servers A, B, … on these ports; `m.*` may go to all of them."""
    servers = [
        Server(name, f"{scheme}://127.0.0.1:{port}", request_max=request_max)
        for name, port in zip("ABCDEFGH", ports, strict=False)
    ]
    names = [server.name for server in servers]
    fleet = Fleet.of(servers, {"m.*": names, "gpt-oss.*": names} if names else {})
    balancer = Balancer(fleet, clock=Clock())
    pools = {server.name: Pool(server.model_base, **timeouts) for server in servers}
    waiting = WaitingRoom(balancer, capacity=capacity, timeout=queue_timeout)
    stack = Stack(balancer, waiting, pools)
    reading = Reading(username_finder(re.compile(r"name is (\w+)")), Rewrites())
    relay = Relay(
        balancer,
        pools,
        waiting,
        origin=Origin(ip_network(text) for text in trusted),
        read=functools.partial(ModelRequest, reading),
        max_body_bytes=max_body_bytes,
        finished=stack.finished,
        keepalive=keepalive,
        routed_paths=routed_paths,
    )
    config = uvicorn.Config(
        relay,
        host="127.0.0.1",
        port=0,
        http=ClientProtocol,
        ws="none",
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    stack.server = server = WebServer(config, stopping=lambda: None)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    stack.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield stack
    finally:
        await server.shutdown()
        for pool in pools.values():
            pool.close()
