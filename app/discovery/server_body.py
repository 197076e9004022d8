"""A server as somebody describes it who does not write our settings."""

from collections.abc import Collection, Mapping
from typing import Final

from app.settings import ServerSettings, Settings, SettingsError, validated

OURS: Final = frozenset(
    {"api_key_file", "ca_file", "client_cert", "client_key", "wake", "sleep", "sleep_after"}
)
"""Fields that name files and commands of this machine, which others have no business with."""


def read_server(
    name: str,
    body: object,
    settings: Settings,
    *,
    kinds: Collection[str] = (),
    forbidden: Collection[str] = OURS,
) -> ServerSettings:
    """Validate a server as BALANCER_SERVERS would have it, but for what is `forbidden`.

    `settings` tell which address is our own; `kinds` of model servers may be named.

    Raises:
        SettingsError: with every mistake that was found.
    """
    if isinstance(body, Mapping) and (wrong := sorted(forbidden & body.keys())):
        raise SettingsError([f"{name}: {', '.join(wrong)} can be set in BALANCER_SERVERS alone"])
    values = {"host": settings.host, "port": settings.port, "servers": {name: body}}
    try:
        (told,) = validated(values, kinds=kinds).servers.values()
    except SettingsError as error:
        raise SettingsError(
            [line.removeprefix("BALANCER_SERVERS: ") for line in error.mistakes]
        ) from None
    if told.by_dns:
        raise SettingsError([f"{name}: addr: names of DNS can be set in BALANCER_SERVERS alone"])
    return told.listed_only()
