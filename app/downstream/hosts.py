"""The names by which clients may call us: no page can make its own name stand for our address.

A site may point its name at an address of the visitor's own network (DNS rebinding); its pages
then speak with what is there as with their own server. Its name is in the `Host` field.
"""

import socket
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

ANY: Final = "*"

PRIVATE: Final = (".arpa", ".home", ".internal", ".lan", ".local", ".localdomain", ".localhost")
"""Ends of names that nobody can register (RFC 6761, RFC 6762, RFC 8375, and what ICANN keeps)."""

MOST_KNOWN: Final = 256
"""How many values of the field are remembered that are allowed."""


class Hosts:
    """Knows which hosts may stand in a request's `Host` field.

    Addresses, names without a dot, such as those of containers, names of private networks and
    this machine's own always may. `more` are names besides: `*.example.com` stands for all
    that end so, `*` for any.
    """

    def __init__(self, more: Iterable[str] = ()) -> None:
        names = [name.lower() for name in more]
        self._any = ANY in names
        self._names = {*names, socket.gethostname().lower()}
        self._ends = (*PRIVATE, *(name[1:] for name in names if name.startswith("*.")))
        self._known: set[bytes] = set()

    def allow(self, host: bytes) -> bool:
        """Whether a host may be called; `host` is the field's value, empty where there is none."""
        if host in self._known:
            return True
        allowed = self._any or self._is_ours(host_name(host))
        if allowed and len(self._known) < MOST_KNOWN:
            self._known.add(host)
        return allowed

    def _is_ours(self, name: str) -> bool:
        if "." not in name or name in self._names or name.endswith(self._ends):
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True


def host_name(host: bytes) -> str:
    """Take the name, or the address, of a host that may tell its port."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0].partition("%")[0]
    return text.partition(":")[0].rstrip(".")
