"""Where a request came from, by the word of proxies that are trusted."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

Network = IPv4Network | IPv6Network

LONGEST_ADDRESS: Final = 64
"""How long an address may be that is remembered, in characters."""


class Origin:
    """Finds out where a request came from: only trusted proxies are believed."""

    def __init__(self, trusted: Iterable[Network]) -> None:
        self._trusted = tuple(trusted)
        self._known: dict[str, bool] = {}

    def trusts(self, address: str) -> bool:
        """Whether an address is one of the trusted proxies."""
        known = self._known.get(address)
        if known is None:
            try:
                ip = ip_address(address)
            except ValueError:
                known = False
            else:
                known = any(ip in network for network in self._trusted)
            # An IPv6 address may name a zone of any length.
            if len(self._known) < 1000 and len(address) <= LONGEST_ADDRESS:
                self._known[address] = known
        return known

    def is_secure(self, scheme: str, peer: str, forwarded_proto: bytes | None) -> bool:
        """Whether the client's own connection has TLS: ours, or one to a trusted proxy."""
        if forwarded_proto is not None and self.trusts(peer):
            return forwarded_proto.rpartition(b",")[2].strip().lower() == b"https"
        return scheme == "https"

    def client(self, peer: str, forwarded_for: bytes | None) -> str:
        """Return the client's address: the last one in the chain that is no trusted proxy.

        The list is read from the right, since everything left of the first address that we
        do not trust may be invented.
        """
        if forwarded_for is None or not self.trusts(peer):
            return peer
        client = peer
        for part in reversed(forwarded_for.decode("latin-1").split(",")):
            address = _without_port(part.strip())
            try:
                ip_address(address)
            except ValueError:
                return client
            client = address
            if not self.trusts(address):
                return client
        return client


def _without_port(node: str) -> str:
    """Take the address of a hop that may tell its port: `1.2.3.4:5`, `[::1]:5` or `[::1]`."""
    if node.startswith("["):
        return node[1:].partition("]")[0]
    address, _, port = node.partition(":")
    return node if ":" in port else address
