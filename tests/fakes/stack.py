"""The relay in front of scripted servers, over real sockets, all in one event loop."""

import asyncio
import contextlib
import functools
import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

from app.apis.rewrites import Rewrites
from app.downstream.connection import ClientConnection
from app.downstream.forwarded import Origin
from app.downstream.server import Server as WebServer
from app.downstream.server import config
from app.proxy.buffer import Buffer
from app.proxy.model_request import ModelRequest, Reading, username_finder
from app.proxy.proxy import Proxy
from app.proxy.queue import RequestQueue
from app.routing.balancer import Balancer
from app.routing.fleet import Fleet, Server
from app.telemetry.record import Record
from app.upstream.pool import Pool
from tests.fakes.clock import Clock
from tests.fakes.sockets import Cut, Message, Visit, until

cut: Cut = "whole"
"""How clients cut their requests; the fixture `every_cut` sets it."""


@dataclass
class Stack:
    """The relay, and everything that it uses."""

    balancer: Balancer
    waiting: RequestQueue
    pools: dict[str, Pool]
    server: WebServer = field(init=False)
    port: int = 0
    records: list[Record] = field(default_factory=list)
    begun: Counter[str] = field(default_factory=Counter)
    """Requests that have begun and not ended, by endpoint."""
    buffer: Buffer = field(default_factory=lambda: Buffer(2**30))
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
    def clients(self) -> list[ClientConnection]:
        connections: Any = self.server.server_state.connections
        return [c for c in connections if isinstance(c, ClientConnection)]

    def after(self, seconds: float) -> None:
        """Have the server look after its clients as if so much time had passed."""
        self.server.check_clients(asyncio.get_running_loop().time() + seconds)

    @property
    def in_flight(self) -> int:
        return sum(backend.ledger.total for backend in self.balancer.backends())

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Visit]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        try:
            yield Visit(reader, writer, cut)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def ask(self, request: bytes) -> Message:
        """Send one request and read its answer."""
        async with self.client() as client:
            await client.say(request)
            return await client.message(head_only=request.startswith(b"HEAD "))


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
    **pool_options: Any,
) -> AsyncIterator[Stack]:
    """Run the relay in front of servers A, B, … on these ports; `m.*` may go to all of them."""
    servers = [
        Server(name, f"{scheme}://127.0.0.1:{port}", request_max=request_max)
        for name, port in zip("ABCDEFGH", ports, strict=False)
    ]
    names = [server.name for server in servers]
    fleet = Fleet.of(servers, {"m.*": names, "gpt-oss.*": names} if names else {})
    balancer = Balancer(fleet, clock=Clock())
    pools = {server.name: Pool(server.model_base, **pool_options) for server in servers}
    waiting = RequestQueue(balancer, capacity=capacity, timeout=queue_timeout)
    stack = Stack(balancer, waiting, pools)
    reading = Reading(username_finder(re.compile(r"name is (\w+)")), Rewrites())
    proxy = Proxy(
        balancer,
        pools,
        waiting,
        origin=Origin(ip_network(text) for text in trusted),
        read=functools.partial(ModelRequest, reading),
        max_body_bytes=max_body_bytes,
        buffer=stack.buffer,
        finished=stack.finished,
        in_flight=stack.begun,
        keepalive=keepalive,
        routed_paths=routed_paths,
    )
    uvicorn_config = config(
        proxy,
        None,
        host="127.0.0.1",
        port=0,
        lifespan="off",
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=1,
    )
    stack.server = server = WebServer(uvicorn_config, stopping=lambda: None)
    uvicorn_config.load()
    server.lifespan = uvicorn_config.lifespan_class(uvicorn_config)
    await server.startup()
    stack.port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield stack
    finally:
        for listener in server.servers:
            listener.close()
        for client in stack.clients:
            client.transport.abort()
        await until(lambda: not stack.clients and not server.server_state.tasks)
        for pool in pools.values():
            pool.close()
