"""Model servers of the local networks: asked for politely, and written as settings."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv4Network, ip_network
from typing import Any, Final

from app.discovery.interfaces import interfaces
from app.discovery.model_servers import PORTS, ModelServer, found
from app.settings import SettingsError
from app.upstream.errors import UpstreamError
from app.upstream.http import Client
from app.upstream.introspection.introspection import PLAIN
from app.upstream.pool import Pool

AGENT_PORT: Final = 18000
"""Where an agent listens if nobody says otherwise."""

MOST_HOSTS: Final = 1024
"""Addresses that are asked at the most: those of a /22."""

AROUND: Final = 24
"""How much of a bigger local network is asked: the part that this machine is in."""

AT_ONCE: Final = 64
"""Connections at a time: small routers have little room for more."""

CONNECT_SECONDS: Final = 0.5


@dataclass
class Machine:
    """A machine on which there are model servers."""

    host: str
    name: str
    servers: list[ModelServer] = field(default_factory=list)
    has_agent: bool = False

    def settings(self) -> dict[str, dict[str, Any]]:
        """Write its servers as BALANCER_SERVERS has them."""
        health = {"health_port": AGENT_PORT} if self.has_agent else {}
        return {
            self.name if len(self.servers) == 1 else f"{self.name}:{server.port}": {
                "addr": server.address,
                **({} if server.kind == PLAIN else {"health": server.kind}),
                **health,
            }
            for server in self.servers
        }


def networks(written: str | None) -> list[IPv4Network]:
    """Read a network, or find out the local ones.

    Raises:
        SettingsError: it is none, or has too many addresses.
    """
    if written is None:
        local = [*_local_networks()]
        if not local:
            raise SettingsError(["no local network is known here; name one, as 192.168.1.0/24"])
        return local
    try:
        network = ip_network(written, strict=False)
    except ValueError:
        raise SettingsError([f"{written} is no network; for example 192.168.1.0/24"]) from None
    if not isinstance(network, IPv4Network):
        raise SettingsError([f"{written} has too many addresses to ask them all"])
    if network.num_addresses > MOST_HOSTS:
        raise SettingsError(
            [f"{written} has {network.num_addresses} addresses; {MOST_HOSTS} are asked at the most"]
        )
    return [network]


async def scan(hosts: Sequence[str], progress: Callable[[int, int], None]) -> list[Machine]:
    """Ask all hosts on the usual ports; `progress` is told how many of how many were asked."""
    room = asyncio.Semaphore(AT_ONCE)
    places = [(host, port) for host in hosts for port in (*PORTS, AGENT_PORT)]
    asked = 0

    async def listens(host: str, port: int) -> bool:
        nonlocal asked
        async with room:
            is_open = await _is_open(host, port)
        asked += 1
        progress(asked, len(places))
        return is_open

    there = await asyncio.gather(*(listens(*place) for place in places))
    open_places = [place for place, is_open in zip(places, there, strict=True) if is_open]
    servers = [ModelServer(host, port) for host, port in open_places if port in PORTS]
    agents = {host for host, port in open_places if port == AGENT_PORT and await _is_agent(host)}
    machines: dict[str, Machine] = {}
    for server in await found(servers):
        host = server.host
        if host not in machines:
            machines[host] = Machine(host, await _name_of(host), [], host in agents)
        machines[host].servers.append(server)
    for server in servers:
        server.close()
    return [*machines.values()]


def hosts_of(of: Iterable[IPv4Network]) -> list[str]:
    """List the addresses of networks that hosts can have."""
    return [str(host) for network in of for host in network.hosts()]


def this_machine() -> str:
    """Return the address that other machines most likely know this one by."""
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # nothing is sent (RFC 5737)
        return str(probe.getsockname()[0])
    return socket.gethostname()


async def _is_open(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def _is_agent(host: str) -> bool:
    pool = Pool(f"http://{host}:{AGENT_PORT}")
    try:
        status, body = await Client(pool, connect_timeout=1.0, silence=2.0).get("/llmhealth")
        return status == 200 and "status" in json.loads(body)
    except (UpstreamError, ValueError, TypeError):
        return False
    finally:
        pool.close()


async def _name_of(host: str) -> str:
    """Return the first part of a host's name, or its address where it has none."""
    try:
        async with asyncio.timeout(1.0):
            name, _ = await asyncio.get_running_loop().getnameinfo((host, 0), socket.NI_NAMEREQD)
    except (OSError, TimeoutError):
        return host
    return name.partition(".")[0]


def _local_networks() -> Iterable[IPv4Network]:
    """Return the networks of this machine's interfaces; of big ones the part around it."""
    found = set()
    for one in interfaces():
        if isinstance(one, IPv4Interface):
            length = max(AROUND, one.network.prefixlen)
            found.add(IPv4Network(f"{one.ip}/{length}", strict=False))
    return sorted(found)
