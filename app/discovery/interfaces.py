"""Addresses of our own on the networks of this machine."""

from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Final

import ifaddr

VIRTUAL: Final = ("br-", "docker", "veth", "virbr")
"""How interfaces are called that lead to containers and virtual machines of this machine."""


def interfaces() -> Iterator[IPv4Interface | IPv6Interface]:
    """Go through the addresses that other machines may reach, each with its network."""
    for adapter in ifaddr.get_adapters():
        if adapter.nice_name.startswith(VIRTUAL):
            continue
        for one in adapter.ips:
            address = one.ip if isinstance(one.ip, str) else one.ip[0]
            found = ip_interface(f"{address}/{one.network_prefix}")
            if not (found.is_loopback or found.is_link_local):
                yield found
