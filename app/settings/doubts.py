"""Settings that may be meant otherwise than they are: valid, told, and taken as they stand."""

import re
from collections.abc import Iterator
from itertools import combinations
from typing import Final
from urllib.parse import urlsplit

from app.apis.aliases import Aliases
from app.routing.patterns import is_name
from app.settings.schema import Settings

ALL: Final = re.compile(r"\^?\(?\.[*+]\)?\$?")
"""Patterns that every name matches."""

GLOB: Final = re.compile(r"(?<=[A-Za-z0-9:/_-])\*")
"""A `*` that stands for text in a shell; in a regular expression it repeats one character."""


def doubts(settings: Settings) -> list[str]:
    """Say what may be meant otherwise, each in a line with what to write in its place."""
    return [*_ports(settings), *_same_servers(settings), *_patterns(settings), *_aliases(settings)]


def _ports(settings: Settings) -> Iterator[str]:
    for name, server in settings.servers.items():
        url = urlsplit(server.server(name).model_base)
        if url.scheme == "http" and url.port is None and not server.addr.startswith("dns+srv"):
            yield (
                f"BALANCER_SERVERS: {name}.addr has no port, so that port 80 is asked; "
                f'for another: "addr": "{url.scheme}://{url.netloc}:8080{url.path}"'
            )


def _same_servers(settings: Settings) -> Iterator[str]:
    found = {n: (s.server(n).model_base, s.own_headers) for n, s in settings.servers.items()}
    for (one, there), (other, as_well) in combinations(found.items(), 2):
        if there == as_well:
            yield (
                f"BALANCER_SERVERS: {one} and {other} are the same server, {there[0]}: each of "
                "them gets its share and its limit; write it once"
            )


def _patterns(settings: Settings) -> Iterator[str]:
    earlier: list[str] = []
    for pattern in settings.models:
        if match := GLOB.search(pattern):
            before, meant = pattern[match.start() - 1], GLOB.sub(".*", pattern)
            yield (
                f'BALANCER_MODELS: "{pattern}" is a regular expression, in which "*" repeats the '
                f'"{before}" before it; for any text: "{meant}"'
            )
        if (over := next((x for x in earlier if _covers(x, pattern)), None)) is not None:
            yield (
                f'BALANCER_MODELS: "{pattern}" is never reached, as the first pattern that matches '
                f'decides, and "{over}" stands before it; write "{pattern}" before "{over}"'
            )
        earlier.append(pattern)


def _covers(earlier: str, later: str) -> bool:
    """Whether all names that match the later pattern match the earlier one, as far as one sees."""
    if ALL.fullmatch(earlier):
        return True
    return is_name(later) and re.fullmatch(earlier, later) is not None


def _aliases(settings: Settings) -> Iterator[str]:
    aliases = Aliases(settings.aliases)
    for alias, model in settings.aliases.items():
        if (further := aliases.model(model)) not in (model, alias):
            yield (
                f'BALANCER_ALIASES: "{alias}" stands for "{model}", which is an alias itself, and '
                f'is not followed any further; write "{alias}": "{further}"'
            )
        elif further == alias and alias != model:
            yield (
                f'BALANCER_ALIASES: "{alias}" and "{model}" stand for each other; take one of '
                "them out"
            )
