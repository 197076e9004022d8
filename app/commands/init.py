"""`llama-balancer init`: write a first .env, from three answers or from what a scan finds."""

import argparse
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from app.commands.env_lines import quoted_json
from app.commands.scan import look_around
from app.discovery import networks
from app.discovery.interfaces import interfaces
from app.keys.key_ring import hash_of
from app.settings import SettingsError, validated
from app.upstream.introspection.introspection import NAMES as KINDS

FILE: Final = Path(".env")

SERVERS: Final = """\
Where are your model servers? Addresses such as 192.168.1.20:8080, with commas between.
Enter alone looks for them on the local networks: """
OPEN: Final = "May other machines use the balancer? [y/N]: "
KEYS: Final = "Shall everybody need a key for that? [Y/n]: "


def init(arguments: argparse.Namespace) -> None:
    """Write .env, and say what to do next.

    Raises:
        SettingsError: there is a .env, or no server was found.
    """
    if FILE.exists():
        raise SettingsError([f"{FILE} is there already: change it, or move it away first"])
    try:
        written = "" if arguments.scan else input(SERVERS).strip()
        servers = _servers(written)
        is_open = not arguments.scan and _yes(input(OPEN), default=False)
        with_keys = is_open and _yes(input(KEYS), default=True)
    except EOFError:
        raise SettingsError(["nobody answers: `llama-balancer init --scan` asks nothing"]) from None
    lines, told = _lines(servers, is_open=is_open, with_keys=with_keys)
    with os.fdopen(
        os.open(FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
    ) as file:
        file.write("".join(f"{line}\n" for line in lines))
    print(f"\nWrote {FILE} with {', '.join(servers)}.")
    print("".join(f"{line}\n" for line in told), end="")
    print("Next: `llama-balancer check --connect` asks the servers, `llama-balancer` serves.")


def _servers(written: str) -> dict[str, dict[str, Any]]:
    """Write servers as BALANCER_SERVERS has them: those named, or those that are found."""
    named = [part for part in re.split(r"[,\s]+", written) if part]
    if not named:
        return _found(["127.0.0.1", *_neighbours()])
    servers: dict[str, dict[str, Any]] = {}
    for address in named:
        url = urlsplit(address if "://" in address else f"http://{address}")
        if "://" not in address and url.netloc == url.hostname:
            servers |= _found([address])  # without a port
        else:
            name = url.hostname if url.hostname and url.hostname not in servers else url.netloc
            servers[name] = {"addr": url.geturl()}
    validated({"servers": servers}, kinds=KINDS)
    return servers


def _found(hosts: Sequence[str]) -> dict[str, dict[str, Any]]:
    machines = look_around(hosts)
    return {name: one for machine in machines for name, one in machine.settings().items()}


def _neighbours() -> list[str]:
    """List the addresses of the local networks, without this machine's own."""
    own = {str(one.ip) for one in interfaces()}
    try:
        return [host for host in networks.hosts_of(networks.networks(None)) if host not in own]
    except SettingsError:
        return []  # there is no network: its own servers can be found all the same


def _lines(
    servers: dict[str, dict[str, Any]], *, is_open: bool, with_keys: bool
) -> tuple[list[str], list[str]]:
    """Write the lines of the file, and what its reader must know this once."""
    lines = [
        f"BALANCER_SERVERS={quoted_json(servers)}",
        "BALANCER_ROUTED_PATHS=all",
        *(["BALANCER_HOST=0.0.0.0"] if is_open else []),
    ]
    if not with_keys:
        return [*lines, *(["BALANCER_INSECURE=true"] if is_open else [])], []
    key, admin = f"sk-{secrets.token_urlsafe(32)}", secrets.token_urlsafe(32)
    hashes = quoted_json({"everybody": hash_of(key)})
    return [*lines, f"BALANCER_API_KEYS={hashes}", f"BALANCER_ADMIN_KEY={admin}"], [
        f"The key for programs, which is printed this once: {key}",
        f"The key for the page and the metrics, which is in {FILE}: {admin}",
    ]


def _yes(answer: str, *, default: bool) -> bool:
    return answer.strip().lower().startswith("y") if answer.strip() else default
