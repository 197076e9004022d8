"""The servers of machines whose agents have joined the balancer."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import structlog

from app.discovery.server_body import OURS, read_server
from app.settings import ServerSettings, Settings, SettingsError
from app.settings.listening import bracketed, is_loopback
from app.telemetry import logs

RENEWAL: Final = 5.0
"""Seconds after which an agent says again that it is there."""

SILENCE: Final = 15.0
"""Seconds after which the servers of an agent that says nothing get no new requests."""

MEMORY: Final = 600.0
"""Seconds after which an agent that says nothing is forgotten, and what is known of its servers."""

MOST_SERVERS: Final = 1000
"""Servers of all agents together."""

FORBIDDEN: Final = OURS | {"forward_credentials", "tier"}
"""What an agent has no say in: our clients' credentials, our files, and who comes first."""

log: Final = structlog.get_logger(__name__)


class Taken(Exception):
    """Another machine has the name."""


@dataclass
class Machine:
    """One agent, and the servers that it has told of."""

    address: str
    servers: dict[str, ServerSettings]
    renewed_at: float
    """In seconds."""
    state: Literal["present", "silent", "leaving"] = "present"


class JoinedServers:
    """Knows which agents have joined.

    `clock` tells seconds; `changed` is called when there are other servers than before; `drain`
    is told which server shall get new requests or none; `in_flight` counts the requests at one.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        changed: Callable[[], None],
        drain: Callable[[str, bool], None],
        in_flight: Callable[[str], int],
    ) -> None:
        self._clock = clock
        self._changed = changed
        self._drain = drain
        self._in_flight = in_flight
        self.machines: dict[str, Machine] = {}
        """By name, in the order in which they joined."""

    def servers(self) -> dict[str, ServerSettings]:
        """Return all servers, by name."""
        return {
            name: told
            for machine in self.machines.values()
            for name, told in machine.servers.items()
        }

    def join(self, name: str, address: str, servers: Mapping[str, ServerSettings]) -> None:
        """Take in an agent's servers, or that it is still there.

        Raises:
            Taken: an agent at another address has the name, or a server's.
        """
        machine = self.machines.get(name)
        if machine is not None and machine.address != address and machine.state == "present":
            raise Taken(f'"{name}" has joined from another address; set BALANCER_JOIN_NAME')
        others = {
            server: other
            for other, one in self.machines.items()
            if other != name
            for server in one.servers
        }
        if twice := others.keys() & servers.keys():
            raise Taken(f'"{min(twice)}" is a server of {others[min(twice)]} already')
        if len(others) + len(servers) > MOST_SERVERS:
            raise Taken(f"there are {MOST_SERVERS} servers already, and no room for more")
        if machine is None or machine.servers != servers:
            self.machines[name] = here = Machine(address, dict(servers), self._clock())
            self._changed()
        else:
            here = machine
        if machine is None or machine.state != "present":
            log.info("machine.joined", machine=name, address=address, servers=[*servers])
            self._drain_all(here, on=False)
        here.address, here.renewed_at, here.state = address, self._clock(), "present"

    def leave(self, name: str) -> int:
        """Send an agent's servers no new requests; return how many are in flight there.

        It is forgotten when there are none.
        """
        machine = self.machines.get(name)
        if machine is None:
            return 0
        if machine.state != "leaving":
            machine.state = "leaving"
            log.info("machine.leaving", machine=name)
            self._drain_all(machine, on=True)
        in_flight = sum(map(self._in_flight, machine.servers))
        if not in_flight:
            self._forget(name)
        return in_flight

    async def watch(self) -> None:
        """Notice again and again who keeps silent, until cancelled."""
        while True:
            await asyncio.sleep(RENEWAL / 10)
            try:
                self.look()
            except Exception:  # noqa: BLE001 - logged and counted
                logs.task_failed("machines")

    def look(self) -> None:
        """Notice who keeps silent."""
        now = self._clock()
        for name, machine in [*self.machines.items()]:
            silence = now - machine.renewed_at
            if silence >= MEMORY:
                self._forget(name)
            elif machine.state == "leaving":
                self.leave(name)
            elif silence >= SILENCE and machine.state == "present":
                machine.state = "silent"
                log.warning("machine.silent", machine=name, seconds=round(silence, 1))
                self._drain_all(machine, on=True)

    def _drain_all(self, machine: Machine, *, on: bool) -> None:
        for server in machine.servers:
            self._drain(server, on)

    def _forget(self, name: str) -> None:
        del self.machines[name]
        log.info("machine.left", machine=name)
        self._changed()


def read_servers(
    told: Mapping[str, Any], address: str, settings: Settings, kinds: Collection[str]
) -> dict[str, ServerSettings]:
    """Read the servers that an agent tells of; what is local to it is at its `address` for us.

    Raises:
        SettingsError: with every mistake that was found.
    """
    found: dict[str, ServerSettings] = {}
    mistakes: list[str] = []
    for name, body in told.items():
        try:
            body = _seen_from_here(body, address)
            found[name] = read_server(name, body, settings, kinds=kinds, forbidden=FORBIDDEN)
        except SettingsError as error:
            mistakes += error.mistakes
    if mistakes:
        raise SettingsError(mistakes)
    return found


def _seen_from_here(body: object, address: str) -> object:
    """Put the machine's address in place of a local one."""
    if not isinstance(body, Mapping) or not isinstance(addr := body.get("addr"), str):
        return body
    try:
        url = urlsplit(addr)
        port = url.port
    except ValueError:
        return body
    if not is_loopback(url.hostname or ""):
        return body
    host = bracketed(address)
    netloc = host if port is None else f"{host}:{port}"
    return {**body, "addr": url._replace(netloc=netloc).geturl()}
