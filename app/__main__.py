"""The command line: serve, check the settings, find model servers, and what else is done once."""

import argparse
import asyncio
import gc
import json
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import app
from app.keys.key_ring import hash_of
from app.routing.fleet import Server
from app.settings import Settings, SettingsError, Sources, load, validated
from app.settings.listening import bracketed
from app.settings.paths import ROUTABLE_PATHS
from app.settings.variables import plain, read_json
from app.upstream.introspection.introspection import NAMES as KINDS

if TYPE_CHECKING:
    from app.discovery.networks import Machine

IMPORTED = {
    "servers": "servers",
    "models": "models",
    "fallback_server": "fallback_server",
    "default_server": "fallback_server",
}
"""What a server list may hold, and which setting it became."""


RELOAD_SECONDS = 30
"""How long a reload may take."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a mistake in the settings is exit status 2, one line for each on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llama-balancer",
        description="Balance requests over OpenAI-compatible model servers. "
        "The settings come from the environment and .env; .env.example lists them.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {app.__version__}")
    parser.set_defaults(run=_serve)
    commands = parser.add_subparsers(metavar="command")
    serve = commands.add_parser("serve", help="serve until stopped (the default)")
    serve.set_defaults(run=_serve)
    check = commands.add_parser("check", help="validate the settings, and show them as understood")
    check.set_defaults(run=_check)
    importing = commands.add_parser(
        "import", help="print the settings for .env that say the same as a server-list.json"
    )
    importing.add_argument("file", type=Path, help="the server list")
    importing.set_defaults(run=_import)
    reload = commands.add_parser(
        "reload", help="have the running balancer take in the settings of .env and the secrets"
    )
    reload.set_defaults(run=_reload)
    scan = commands.add_parser(
        "scan", help="look for model servers on the local networks, and print the settings"
    )
    scan.add_argument("network", nargs="?", help="a network, such as 192.168.1.0/24")
    scan.add_argument(
        "--join", action="store_true", help="print what to run on each machine, so that it joins"
    )
    scan.set_defaults(run=_scan)
    key = commands.add_parser("key", help="make an API key, or list those that there are")
    actions = key.add_subparsers(metavar="action", required=True)
    new = actions.add_parser("new", help="make a key, and print it this once")
    new.add_argument("name", help="who has it")
    new.set_defaults(run=_new_key)
    actions.add_parser("list", help="print the names").set_defaults(run=_list_keys)
    return parser


def _new_key(arguments: argparse.Namespace) -> None:
    key = f"sk-{secrets.token_urlsafe(32)}"
    named = {arguments.name: hash_of(key)}
    validated({"api_keys": named})
    print(f"The key, which is printed this once:\n\n    {key}\n")
    print("What the balancer needs to know of it, which may stand beside others:\n")
    print(f"    BALANCER_API_KEYS={_quoted_json(named)}")


def _list_keys(_: argparse.Namespace) -> None:
    for name, key in load(KINDS).all_keys().items():
        models = f"  {', '.join(key.models)}" if key.models else ""
        print(f"{name}{models}")


def _serve(_: argparse.Namespace) -> None:
    sources = Sources()
    settings = load(KINDS, sources)
    gc.disable()  # imports leave no garbage, and to look for it takes a sixth of their time
    # The other commands need no web server.
    from app.main import serve

    gc.enable()
    serve(settings, lambda: load(KINDS, sources), sources.paths)


def _reload(_: argparse.Namespace) -> None:
    from app.control.running_file import running

    balancers = running()
    if not balancers:
        raise SettingsError(["no balancer of this user runs here"])
    for one in balancers:
        _reload_one(one.url, one.key)


def _reload_one(url: str, key: str) -> None:
    import httpx

    try:
        response = httpx.post(
            f"{url}/llmhealth-reload",
            headers={"authorization": f"Bearer {key}"},
            timeout=RELOAD_SECONDS,
            verify=False,  # noqa: S501 - this very machine, by an address that is in no certificate
            trust_env=False,
        )
        told = response.json()
    except (httpx.HTTPError, ValueError) as error:
        raise SettingsError([f"{url}: {error}"]) from None
    if "mistakes" not in told:
        raise SettingsError([f"{url}: {response.text}"])
    if told["mistakes"]:
        raise SettingsError([*told["mistakes"], f"{url} goes on with the settings that it had"])
    came_of_it = "taken in" if told["changed"] else "nothing has changed"
    print("\n".join([f"{url}: {came_of_it}", *told["changed"]]))
    for name in told["needs_restart"]:
        print(f"{name}: holds from the next start on")


def _scan(arguments: argparse.Namespace) -> None:
    from app.discovery import networks

    hosts = networks.hosts_of(networks.networks(arguments.network))
    print(f"Asking {len(hosts)} addresses for model servers", file=sys.stderr)
    machines = asyncio.run(networks.scan(hosts, _bar))
    if not machines:
        raise SettingsError(["no model server was found on the usual ports"])
    for machine in machines:
        for server in machine.servers:
            models = ", ".join(server.models or ()) or "no models"
            print(f"# {server.address}  {server.kind}  {models}")
    if arguments.join:
        _print_joins(machines)
        return
    servers = {name: one for machine in machines for name, one in machine.settings().items()}
    print(f"BALANCER_SERVERS={_quoted_json(servers)}")


def _bar(done: int, total: int) -> None:
    """Draw a progress bar on a terminal."""
    if sys.stderr.isatty():
        filled = 40 * done // total
        end = "\n" if done == total else ""
        bar = "#" * filled + "." * (40 - filled)
        print(f"\r[{bar}] {done}/{total}", end=end, file=sys.stderr, flush=True)


def _print_joins(machines: Sequence["Machine"]) -> None:
    """Print what has each machine join, and what the balancer here needs for it."""
    from app.discovery.networks import this_machine

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


def _check(_: argparse.Namespace) -> None:
    from app.discovery.added_servers import AddedServers

    settings = load(KINDS)
    lines = _summary(settings)
    if added := AddedServers(settings, KINDS).servers:
        lines.append(f"Added over the admin API: {', '.join(added)}")
    print("\n".join(lines))


def _summary(settings: Settings) -> list[str]:
    lines = [f"Listens on {bracketed(settings.host)}:{settings.port}", *_joining(settings)]
    fleet = settings.fleet()
    if not fleet.servers and settings.lets_join:
        return lines
    if not fleet.servers:
        return [*lines, "No servers: tells this machine's GPU load on /llmhealth, and no more"]
    lines.append("Servers, in order of preference:")
    width = max(map(len, fleet.servers))
    lines += (
        f"  {name:{width}}  {_described(server, adopts_slots=settings.adopt_slots)}"
        for name, server in fleet.servers.items()
    )
    if fleet.patterns:
        lines.append("Models, the first match decides:")
        width = max(len(pattern.regex.pattern) for pattern in fleet.patterns)
        lines += (f"  {p.regex.pattern:{width}}  -> {', '.join(p.servers)}" for p in fleet.patterns)
    lines += (f"{alias} stands for {model}" for alias, model in settings.aliases.items())
    if (reached := settings.open_at()) is not None:
        lines += [
            f"Anybody who reaches {reached} may use every model and see everything. To end that:",
            "  BALANCER_API_KEYS=…     llama-balancer key new NAME prints the line",
            "  BALANCER_ADMIN_KEY=…    a long random text, for the monitor page",
            "  On a network that you trust, BALANCER_INSECURE=true silences this.",
        ]
    if settings.needs_key:
        names = ", ".join(settings.all_keys()) or "nobody"
        lines.append(f"Clients need a key; there are those of {names}")
    return [
        *lines,
        f"Routed by their model: {', '.join(settings.routed_paths)}",
        f"Everything else goes to {fleet.fallback}",
        *_unrouted(settings),
    ]


def _joining(settings: Settings) -> list[str]:
    """Say who joins whom."""
    if settings.join is not None:
        own = ", ".join(settings.join_servers) or "the model servers on the usual ports"
        return [f"Joins {settings.join} with {own}"]
    return ["Machines may join that show BALANCER_JOIN_TOKEN"] if settings.lets_join else []


def _unrouted(settings: Settings) -> list[str]:
    """Say what routes other APIs, where models on other servers than the fallback need it."""
    if len(settings.servers) < 2 or set(settings.routed_paths) >= {*ROUTABLE_PATHS}:
        return []
    return [
        "  Requests of other APIs find no model there that only another server has.",
        "  BALANCER_ROUTED_PATHS=all routes them by their model, too.",
    ]


def _described(server: Server, *, adopts_slots: bool) -> str:
    parts = [server.model_base]
    if server.context is not None:
        parts.append(f"{server.context} tokens a prompt")
    if server.requests_per_hour is not None:
        parts.append(f"{server.requests_per_hour} an hour")
    parts.append(f"health on {server.health_base}" if server.health_base else "no health address")
    limit = server.request_max
    slots = "as many at once as it tells slots" if adopts_slots else "any number at once"
    parts.append(f"at most {limit} at once" if limit else slots)
    if server.kind != "auto":
        parts.append(f"asked as {server.kind}")
    if server.tier != 1:
        parts.append(f"tier {server.tier}")
    if server.weight != 1:
        parts.append(f"weight {server.weight:g}")
    return ", ".join(parts)


def _import(arguments: argparse.Namespace) -> None:
    settings = validated(_old_settings(arguments.file), kinds=KINDS)
    told = settings.servers.items()
    servers = {name: one.model_dump(exclude_defaults=True) for name, one in told}
    print(f"BALANCER_SERVERS={_quoted_json(servers)}")
    print(f"BALANCER_MODELS={_quoted_json(settings.models)}")
    if name := settings.fallback_server:
        quote = '"' if "'" in name else "'"
        print(f"BALANCER_FALLBACK_SERVER={quote}{name}{quote}")


def _old_settings(path: Path) -> dict[str, Any]:
    """Read a server list; what it may not hold is told and left out."""
    try:
        content = read_json(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError([f"{path}: cannot be read: {error.strerror}"]) from None
    except ValueError as error:
        raise SettingsError([f"{path}: {error}"]) from None
    if not isinstance(content, dict):
        raise SettingsError([f"{path}: must hold a JSON object with servers and models"])
    values: dict[str, Any] = {}
    for key, value in content.items():
        setting = IMPORTED.get(plain(key))
        if setting is None or setting in values:
            print(f'{path}: "{key}" has no meaning here and is left out', file=sys.stderr)
        else:
            values[setting] = value
    return values


def _quoted_json(value: object) -> str:
    """Write JSON for .env, so that shells, compose and this program read the same.

    They differ about backslashes, quotes and `${` within single quotes, so JSON's own
    escapes take their place.
    """
    text = json.dumps(value, ensure_ascii=False)
    text = text.replace("\\\\", "\\u005c").replace("'", "\\u0027").replace("${", "\\u0024{")
    return f"'{text}'"


if __name__ == "__main__":
    sys.exit(main())
