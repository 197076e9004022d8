"""Names of DNS stand for as many servers as they lead to."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from typing import cast

import dns.asyncresolver
import dns.message
import dns.rcode
import dns.rrset
import pytest

from app.discovery.dns_names import DnsNames
from app.settings import ServerSettings

pytestmark = pytest.mark.anyio

BY_ADDRESS = ServerSettings(addr="dns+http://llama:8081/path", health_port=18000, request_max=2)
BY_RECORD = ServerSettings(addr="dns+srv://_llama._tcp.example.internal", weight=2.0, tier=2)


class NameServer(asyncio.DatagramProtocol):
    """A DNS server that knows SRV records, or fails."""

    records: Sequence[str] | None = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        question = dns.message.from_wire(data)
        response = dns.message.make_response(question)
        if self.records is None:
            response.set_rcode(dns.rcode.SERVFAIL)
        elif self.records:
            name = question.question[0].name
            response.answer.append(dns.rrset.from_text(name, 1, "IN", "SRV", *self.records))
        self.transport.sendto(response.to_wire(), addr)


@pytest.fixture
async def name_server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NameServer]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = transport.get_extra_info("sockname")[1]
    monkeypatch.setattr(dns.asyncresolver, "default_resolver", resolver)
    yield server
    transport.close()


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses of every name; none is a failure."""
    known: list[str] = []

    def getaddrinfo(_: object, port: int, *__: object, **___: object) -> list[object]:
        if not known:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in known]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


def bases(names: DnsNames, told: ServerSettings) -> dict[str, tuple[str, str | None]]:
    """Return where the servers are: the address as it is written, and the one that is dialled."""
    found = names.members("A", told).items()
    return {name: ((s := one.server(name)).model_base, s.address) for name, one in found}


async def test_each_address_of_a_name_is_a_server(addresses: list[str]) -> None:
    names = DnsNames(lambda: None)
    addresses += ["10.0.0.2", "10.0.0.1"]
    await names.look({"A": BY_ADDRESS})

    members = names.members("A", BY_ADDRESS)

    assert bases(names, BY_ADDRESS) == {
        "A@10.0.0.1": ("http://llama:8081/path", "10.0.0.1"),
        "A@10.0.0.2": ("http://llama:8081/path", "10.0.0.2"),
    }
    assert {one.server("A").health_base for one in members.values()} == {"http://llama:18000"}
    assert {one.request_max for one in members.values()} == {2}


async def test_each_record_is_a_server_with_the_lower_priority_first(
    name_server: NameServer,
) -> None:
    name_server.records = ["0 10 8081 pc1.", "5 20 8082 pc2.", "0 20 8081 pc3."]
    names = DnsNames(lambda: None)
    await names.look({"A": BY_RECORD})

    members = names.members("A", BY_RECORD)

    assert bases(names, BY_RECORD) == {
        "A@pc1:8081": ("http://pc1:8081", None),
        "A@pc3:8081": ("http://pc3:8081", None),
        "A@pc2:8082": ("http://pc2:8082", None),
    }
    assert {name: (one.tier, one.weight) for name, one in members.items()} == {
        "A@pc1:8081": (2, 1.0),
        "A@pc3:8081": (2, 2.0),
        "A@pc2:8082": (3, 2.0),
    }


async def test_a_failure_of_dns_keeps_what_it_said_last(
    name_server: NameServer, addresses: list[str]
) -> None:
    names = DnsNames(lambda: None)
    servers = {"A": BY_ADDRESS, "B": BY_RECORD}
    addresses.append("10.0.0.1")
    name_server.records = ["0 1 8081 pc1."]
    await names.look(servers)
    before = [bases(names, told) for told in servers.values()]

    addresses.clear()
    for records in (None, ()):
        name_server.records = records
        await names.look(servers)

    assert [bases(names, told) for told in servers.values()] == before


async def test_a_name_that_leads_nowhere_yet_is_a_server_that_cannot_be_reached(
    addresses: list[str],
) -> None:
    names = DnsNames(lambda: None)
    await names.look({"A": BY_ADDRESS})
    assert bases(names, BY_ADDRESS) == {"A": ("http://llama:8081/path", None)}


async def test_only_what_is_otherwise_is_a_change(addresses: list[str]) -> None:
    changes: list[int] = []
    names = DnsNames(lambda: changes.append(1))
    for found in (["10.0.0.1", "10.0.0.2"], ["10.0.0.2", "10.0.0.1"], ["10.0.0.2"], []):
        addresses[:] = found
        await names.look({"A": BY_ADDRESS})
    assert len(changes) == 2


async def test_other_servers_are_themselves() -> None:
    names = DnsNames(lambda: None)
    told = ServerSettings(addr="http://10.0.0.1")
    await names.look({"A": told})
    assert names.members("A", told) == {"A": told}
