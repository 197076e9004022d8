"""All servers that there are: those of the settings, and those that came while we serve."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Literal

import structlog

from app.discovery.added_servers import AddedServers
from app.discovery.dns_names import DnsNames
from app.discovery.joined_servers import JoinedServers, Taken, read_servers
from app.settings import ServerSettings, Settings, SettingsError

log: Final = structlog.get_logger(__name__)

Origin = Literal["settings", "admin", "agent"]
"""Who says that there is a server."""


class Roster:
    """Writes what was found into the settings, so that the rest need not know where it is from.

    `kinds` of model servers may be named; `clock` tells seconds; `changed` is called when there
    are other servers; `drain` and `in_flight` are those of `JoinedServers`.
    """

    def __init__(
        self,
        written: Settings,
        kinds: Collection[str],
        *,
        clock: Callable[[], float],
        changed: Callable[[], None],
        drain: Callable[[str, bool], None],
        in_flight: Callable[[str], int],
    ) -> None:
        """Read the servers that were kept.

        Raises:
            SettingsError: they cannot be read.
        """
        self.written = written
        """The settings as they are written."""
        self.kinds = kinds
        self.changed = changed
        self.names = DnsNames(changed)
        self.added = AddedServers(written, kinds)
        self.joined = JoinedServers(
            clock=clock,
            changed=changed,
            drain=lambda name, on: drain(name, on) if self.origin(name) == "agent" else None,
            in_flight=lambda name: in_flight(name) if self.origin(name) == "agent" else 0,
        )
        self.on_added: Callable[[str, Mapping[str, Any] | None], None] = lambda *_: None
        """Told of a server that an administrator has added or changed, with its body, or None where
        it is removed."""
        self.on_said: Callable[[str, Mapping[str, Any] | None, str], None] = lambda *_: None
        """Told what an agent has said, with its machine, its body, and the address it was seen at;
        None where it leaves."""
        self.settings = written
        """The settings, as if everything that was found stood in them."""
        self._origins: dict[str, Origin] = {}
        self.refresh()

    def hear_of_server(self, name: str, body: Mapping[str, Any] | None) -> None:
        """Take in what an administrator has told another balancer of a server."""
        try:
            if body is not None:
                self.added.put(name, body, self.written)
            elif name in self.added.servers:
                self.added.remove(name)
        except (SettingsError, OSError) as error:
            log.warning("server.refused", server=name, error=str(error))
        self.changed()

    def hear_of_machine(self, name: str, body: Mapping[str, Any] | None, seen: str) -> None:
        """Take in what an agent, seen at an address, has told another balancer."""
        if body is None:
            self.joined.leave(name)
            return
        address = body.get("address") or seen
        try:
            servers = read_servers(body["servers"], address, self.written, self.kinds)
            self.joined.join(name, address, servers)
        except (SettingsError, Taken) as error:
            log.warning("machine.refused", machine=name, error=str(error))

    def refresh(self) -> None:
        """Take in what was found. Servers that the settings name win over others.

        That is so for their names, and for their addresses: no server may be sent to twice.
        """
        written = self.written
        members = {name: self.names.members(name, told) for name, told in written.servers.items()}
        named = {name: told for group in members.values() for name, told in group.items()}
        servers = {**named}
        origins: dict[str, Origin] = dict.fromkeys(named, "settings")
        taken = {told.server(name).model_base for name, told in named.items()}
        for name, told in self._guests().items():
            base = told.server(name).model_base
            if name not in written.servers and name not in servers and base not in taken:
                servers[name] = told
                origins[name] = "admin" if name in self.added.servers else "agent"
                taken.add(base)
        guests = tuple(name for name in servers if name not in named)
        models = {
            pattern: (*(one for name in names for one in members[name]), *guests)
            for pattern, names in written.models.items()
        }
        fallback = written.fallback_server
        if fallback is not None:
            fallback = next(iter(members[fallback]))
        found = {"servers": servers, "models": models, "fallback_server": fallback}
        self.settings = written.model_copy(update=found)
        self._origins = origins

    def origin(self, name: str) -> Origin | None:
        """Return who says that there is a server of that name; None where there is none."""
        return self._origins.get(name)

    def _guests(self) -> Mapping[str, ServerSettings]:
        return {**self.joined.servers(), **self.added.servers}
