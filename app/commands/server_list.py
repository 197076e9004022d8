"""`llama-balancer import`: an older server list as settings."""

import argparse
import sys
from pathlib import Path
from typing import Any, Final

from app.commands.env_lines import quoted_json
from app.settings import SettingsError, validated
from app.settings.variables import plain, read_json
from app.upstream.introspection.introspection import NAMES as KINDS

IMPORTED: Final = {
    "servers": "servers",
    "models": "models",
    "fallback_server": "fallback_server",
    "default_server": "fallback_server",
}
"""What a server list may hold, and which setting it became."""


def import_list(arguments: argparse.Namespace) -> None:
    """Print the settings that say what a file says."""
    settings = validated(_old_settings(arguments.file), kinds=KINDS)
    told = settings.servers.items()
    servers = {name: one.model_dump(exclude_defaults=True) for name, one in told}
    print(f"BALANCER_SERVERS={quoted_json(servers)}")
    print(f"BALANCER_MODELS={quoted_json(settings.models)}")
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
