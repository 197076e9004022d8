"""What a request says of the servers that it would like, or would rather not have."""

from collections.abc import Collection, Mapping
from typing import Final

from app.apis.json_body import BadRequest
from app.routing.choice import Ask

PREFER: Final = b"x-balancer-prefer"
AVOID: Final = b"x-balancer-avoid"
"""The request headers, each with the names of servers and commas between them."""


class UnknownServer(BadRequest):
    """A hint names a server that there is not; the message is for the client."""


def hints(fields: Mapping[bytes, bytes]) -> bool:
    """Whether a request has any."""
    return PREFER in fields or AVOID in fields


def heed(ask: Ask, fields: Mapping[bytes, bytes], servers: Collection[str]) -> None:
    """Have a request want the servers that its headers name, and not want others.

    Raises:
        UnknownServer: there is no such server.
    """
    ask.prefer = _names(PREFER, fields, servers)
    ask.avoid = _names(AVOID, fields, servers)


def _names(
    header: bytes, fields: Mapping[bytes, bytes], servers: Collection[str]
) -> tuple[str, ...]:
    text = fields.get(header, b"").decode(errors="replace")
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in servers:
            raise UnknownServer(
                f'{header.decode()} names no server: "{name}"; there are {", ".join(servers)}'
            )
    return names
