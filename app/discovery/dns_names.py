"""Servers by DNS: each address of a name is one, or each of its SRV records."""

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import structlog

from app.settings.server import ServerSettings
from app.telemetry import logs

INTERVAL: Final = 5.0
"""Seconds between two questions for a name."""

TIMEOUT: Final = 3.0
"""Seconds that DNS has to respond."""

SRV: Final = "dns+srv://"

log: Final = structlog.get_logger(__name__)


class Record(NamedTuple):
    """One server of a name."""

    host: str
    """An IP address, or the target of an SRV record."""
    port: int = 0
    """That of an SRV record."""
    priority: int = 0
    """Records of a lower number come first (RFC 2782)."""
    weight: int = 0
    """How much of the requests it gets, compared with those of the same priority (RFC 2782)."""


class DnsNames:
    """Follows the names of servers. Where DNS fails, what it has said last holds.

    `changed` is called when a name has come to lead elsewhere.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._found: dict[str, list[Record]] = {}  # by address

    def members(self, name: str, told: ServerSettings) -> dict[str, ServerSettings]:
        """Return the servers that one of the settings stands for, by their names.

        Without DNS it is itself, and not the name of a server yet to be found: requests for its
        models then hear that it cannot be reached.
        """
        found = self._found.get(told.addr)
        if not found:
            return {name: told}
        if told.addr.startswith(SRV):
            return {f"{name}@{r.host}:{r.port}": _target(told, r, found) for r in found}
        return {f"{name}@{record.host}": told.at(record.host) for record in found}

    async def watch(self, servers: Callable[[], Mapping[str, ServerSettings]]) -> None:
        """Ask for the names again and again, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self.look(servers())
            except Exception:  # noqa: BLE001 - logged and counted
                logs.task_failed("dns")

    async def look(self, servers: Mapping[str, ServerSettings]) -> None:
        """Ask for the names of these servers once."""
        addresses = {told.addr for told in servers.values() if told.by_dns}
        answers = await asyncio.gather(*map(_records, addresses))
        before = self._found
        self._found = {
            address: records or before.get(address, [])
            for address, records in zip(addresses, answers, strict=True)
        }
        for address, records in self._found.items():
            if records != before.get(address):
                log.info("dns.changed", name=address, found=[record.host for record in records])
        if self._found != before:
            self._changed()


async def _records(address: str) -> list[Record]:
    """Ask for a name; empty where there is no answer."""
    url = urlsplit(address)
    name = url.hostname or ""
    try:
        if address.startswith(SRV):
            records = await _services(name)
        else:
            async with asyncio.timeout(TIMEOUT):
                found = await asyncio.get_running_loop().getaddrinfo(
                    name, url.port, type=socket.SOCK_STREAM
                )
            records = [Record(str(info[4][0])) for info in found]
    except (OSError, UnicodeError) as error:
        log.debug("dns.failed", name=address, error=repr(error))
        return []
    return sorted({*records})


async def _services(name: str) -> list[Record]:
    """Ask for the SRV records of a name.

    Raises:
        OSError: there is no answer.
    """
    # Few have such records, and to import it takes a twentieth of the start.
    import dns.asyncresolver
    import dns.exception

    try:
        answer = await dns.asyncresolver.resolve(name, "SRV", lifetime=TIMEOUT)
    except dns.exception.DNSException as error:
        raise OSError(str(error)) from error
    return [
        Record(
            record.target.to_text(omit_final_dot=True),
            record.port,
            record.priority,
            record.weight,
        )
        for record in answer
    ]


def _target(told: ServerSettings, record: Record, all_of_them: list[Record]) -> ServerSettings:
    """Read priority and weight as our tiers and weights, which say the same."""
    before = {other.priority for other in all_of_them if other.priority < record.priority}
    heaviest = max(other.weight for other in all_of_them)
    weight = told.weight * max(record.weight, 1) / max(heaviest, 1)
    return told.at_target(record.host, record.port, tier=told.tier + len(before), weight=weight)
