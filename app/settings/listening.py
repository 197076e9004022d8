"""Whether an address is the one that this program listens on."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

Address = IPv4Address | IPv6Address


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
