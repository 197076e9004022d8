"""Where this program listens, and from where it can be reached."""

import os
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

Address = IPv4Address | IPv6Address

PUBLISH = "BALANCER_PUBLISH"
"""Where compose publishes the port on the host: the container itself listens everywhere."""


def reached_at(listening: str) -> str | None:
    """Return the host where others than this machine reach a socket; None where they do not."""
    published = os.environ.get(PUBLISH)
    host = listening if published is None else _published_host(published)
    addresses = _addresses(host)
    return None if addresses and all(address.is_loopback for address in addresses) else host


def published_port() -> int | None:
    """Return the port where compose publishes ours; None where it does not."""
    port = os.environ.get(PUBLISH, "").rpartition(":")[2]
    return int(port) if port.isdigit() else None


def _published_host(published: str) -> str:
    """Read the host of `18000`, `10.0.0.1:18000` or `[::1]:18000`."""
    host = published.rpartition(":")[0].strip("[]")
    return host or "0.0.0.0"  # noqa: S104 - it is read, not bound


def bracketed(host: str) -> str:
    """Write a host as it stands before a port (RFC 3986 section 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def as_client(listening: str) -> str:
    """Return the host by which a client on this machine reaches a socket."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listening, listening)  # noqa: S104


def is_loopback(host: str) -> bool:
    """Whether a host, as it is written, means the machine that it is written on."""
    if host.lower().rstrip(".") == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def is_own(listening: str, host: str) -> bool:
    """Whether connections to `host` reach a socket of this machine that is bound to `listening`.

    Both are names or addresses; the ports are known to be the same.
    """
    bound = _addresses(listening)
    wanted = _addresses(host)
    if any(address.is_unspecified for address in bound):
        return any(map(_is_local, wanted))
    # To connect to no address in particular is to connect to this machine.
    here = any(address.is_loopback for address in bound)
    return bool(bound & wanted) or (here and any(x.is_unspecified for x in wanted))


def _addresses(host: str) -> set[Address]:
    try:
        return {ip_address(host)}
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {ip_address(str(info[4][0]).partition("%")[0]) for info in found}


def _is_local(address: Address) -> bool:
    """Whether an address is this machine's: only those can be bound."""
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
