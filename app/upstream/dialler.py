"""Making connections to one server, for requests and for probes alike."""

import asyncio
import errno
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

import aiohappyeyeballs

from app.upstream.errors import OutOfSockets, Unanswered, Unreachable

ATTEMPT_DELAY: Final = 0.25
"""Seconds after which the next address of a name is tried as well (RFC 8305 section 5)."""


REFUSED: Final = "it refuses connections"
UNKNOWN_NAME: Final = "its name cannot be resolved"
NO_TLS: Final = "no TLS session came about"

OURS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)
"""What goes wrong on this machine: no files, no memory, no ports of its own are left."""


class Dialler:
    """Dials one server. Its name is resolved for each connection; all its addresses are tried.

    Without a `context` certificates are checked by the system's store, or by `SSL_CERT_FILE`.
    With an `address` that one is dialled; the certificate is the name's all the same.
    """

    def __init__(
        self, base: str, context: ssl.SSLContext | None = None, address: str | None = None
    ) -> None:
        url = urlsplit(base)
        self.tls = url.scheme == "https"
        self._name = url.hostname or ""
        self._host = address or self._name
        self._port = url.port or (443 if self.tls else 80)
        self._context = (context or ssl.create_default_context()) if self.tls else None
        self.by_name = not _is_address(self._host)
        """Whether the host is a name, which may lead elsewhere one day."""

    async def dial(self, make: Callable[[], asyncio.Protocol], within: float) -> asyncio.Protocol:
        """Make a connection `within` so many seconds, and return its protocol.

        Raises:
            Unreachable: the server refused, could not be found, or took too long.
            OutOfSockets: this machine has none left.
        """
        try:
            async with asyncio.timeout(within):
                return await self._dial(make)
        except TimeoutError:
            raise Unanswered(f"no connection within {within:g} s") from None
        except OSError as error:
            if error.errno in OURS:
                raise OutOfSockets(os.strerror(error.errno)) from error
            raise Unreachable(_in_words(error)) from error

    async def _dial(self, make: Callable[[], asyncio.Protocol]) -> asyncio.Protocol:
        loop = asyncio.get_running_loop()
        if self.by_name:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            if len(found) > 1:
                # uvloop has no happy eyeballs of its own: one dead address would be waited for.
                connected = await aiohappyeyeballs.start_connection(
                    found, happy_eyeballs_delay=ATTEMPT_DELAY, interleave=1
                )
                name = self._name if self.tls else None
                _, protocol = await loop.create_connection(
                    make, sock=connected, ssl=self._context, server_hostname=name
                )
                return protocol
        _, protocol = await loop.create_connection(
            make,
            self._host,
            self._port,
            ssl=self._context,
            server_hostname=self._name if self.tls else None,
        )
        return protocol


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _in_words(error: OSError) -> str:
    """Return why there is no connection, without the address: clients read it."""
    if isinstance(error, ConnectionRefusedError):
        return REFUSED
    if isinstance(error, socket.gaierror):
        return UNKNOWN_NAME
    if isinstance(error, ssl.SSLError):
        return NO_TLS
    return f"it cannot be reached ({type(error).__name__})"
