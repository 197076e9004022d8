"""`llama-balancer scan`: find the model servers of the local networks."""

import argparse
import asyncio
import secrets
import sys
from collections.abc import Sequence

from app.commands.env_lines import quoted_json
from app.discovery import networks
from app.discovery.networks import Machine, this_machine
from app.settings import SettingsError, load
from app.upstream.introspection.introspection import NAMES as KINDS


def scan(arguments: argparse.Namespace) -> None:
    """Look for model servers, and print the settings for them."""
    machines = look_around(networks.hosts_of(networks.networks(arguments.network)))
    for machine in machines:
        for server in machine.servers:
            models = ", ".join(server.models or ()) or "no models"
            print(f"# {server.address}  {server.kind}  {models}")
    if arguments.join:
        _print_joins(machines)
        return
    servers = {name: one for machine in machines for name, one in machine.settings().items()}
    print(f"BALANCER_SERVERS={quoted_json(servers)}")


def look_around(hosts: Sequence[str]) -> list[Machine]:
    """Ask hosts on the usual ports, and show how far that is.

    Raises:
        SettingsError: there is no model server.
    """
    print(f"Asking {len(hosts)} addresses for model servers", file=sys.stderr)
    machines = asyncio.run(networks.scan(hosts, _bar))
    if not machines:
        raise SettingsError(["no model server was found on the usual ports"])
    return machines


def _bar(done: int, total: int) -> None:
    """Draw a progress bar on a terminal."""
    if sys.stderr.isatty():
        filled = 40 * done // total
        end = "\n" if done == total else ""
        bar = "#" * filled + "." * (40 - filled)
        print(f"\r[{bar}] {done}/{total}", end=end, file=sys.stderr, flush=True)


def _print_joins(machines: Sequence[Machine]) -> None:
    """Print what has each machine join, and what the balancer here needs for it."""
    settings = load(KINDS)
    if settings.join_token is None:
        token = secrets.token_urlsafe(32)
        print(f"# For .env of this balancer:\nBALANCER_JOIN_TOKEN={token}")
    else:
        token = settings.join_token.get_secret_value()
    scheme = "http" if settings.tls_cert is None else "https"
    for machine in machines:
        print(
            f"# On {machine.name}:\n"
            f"BALANCER_JOIN={scheme}://{this_machine()}:{settings.port} "
            f"BALANCER_JOIN_TOKEN={token} BALANCER_HOST=0.0.0.0 llama-balancer"
        )
