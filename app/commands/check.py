"""`llama-balancer check`: the settings as they are understood, and the servers as they are."""

import argparse
import asyncio

from app.discovery.added_servers import AddedServers
from app.routing.catalog import some_of
from app.routing.fleet import Server
from app.settings import Settings, load
from app.settings.doubts import doubts
from app.settings.listening import bracketed
from app.settings.paths import ROUTABLE_PATHS
from app.upstream.introspection.introspection import NAMES as KINDS
from app.upstream.visit import Visit, visit


def check(arguments: argparse.Namespace) -> int:
    """Print the settings as they are understood; the exit status is 1 where a server fails.

    Raises:
        SettingsError: there is a mistake in them.
    """
    settings = load(KINDS)
    lines = _summary(settings)
    if added := AddedServers(settings, KINDS).servers:
        lines.append(f"Added over the admin API: {', '.join(added)}")
    lines += (f"Perhaps meant otherwise: {doubt}" for doubt in doubts(settings))
    print("\n".join(lines))
    return asyncio.run(_connect(settings)) if arguments.connect else 0


async def _connect(settings: Settings) -> int:
    """Ask every server, and print what it says or what is wrong."""
    # It takes as long as all else here.
    from app.composition.runtime import Runtime

    runtime = Runtime(settings)
    try:
        await runtime.roster.names.look(settings.servers)
        servers = runtime.balancer.fleet.servers
        print("The servers themselves:" if servers else "There is no server to ask")
        visits = await asyncio.gather(*(visit(x, runtime.pools[x.name]) for x in servers.values()))
    finally:
        await runtime.close()
    width = max(map(len, servers), default=0)
    for name, found in zip(servers, visits, strict=True):
        first, *others = _found(found)
        print(f"  {name:{width}}  {first}")
        print("".join(f"  {'':{width}}  {line}\n" for line in others), end="")
    return int(any(found.faults for found in visits))


def _found(found: Visit) -> list[str]:
    """Say what a visit has shown, in lines."""
    lines = []
    if found.report is not None:
        report = found.report
        told = [report.kind.name]
        if report.loading:
            told.append("loads its model")
        if report.slots:
            told.append(f"{report.slots} slots")
        if report.contexts:
            told.append(f"{min(report.contexts.values())} tokens a prompt")
        lines.append(", ".join([*told, f"{1000 * found.seconds:.0f} ms"]))
    if found.models is not None:
        lines.append(", ".join(some_of(found.models)) or "no models")
    return [*found.faults, *lines]


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
