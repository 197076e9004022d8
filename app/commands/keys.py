"""`llama-balancer key`: make API keys, and list them."""

import argparse
import secrets

from app.commands.env_lines import quoted_json
from app.keys.key_ring import hash_of
from app.settings import load, validated
from app.upstream.introspection.introspection import NAMES as KINDS


def new_key(arguments: argparse.Namespace) -> None:
    """Make a key, and print it with the line that lets it in."""
    key = f"sk-{secrets.token_urlsafe(32)}"
    named = {arguments.name: hash_of(key)}
    validated({"api_keys": named})
    print(f"The key, which is printed this once:\n\n    {key}\n")
    print("What the balancer needs to know of it, which may stand beside others:\n")
    print(f"    BALANCER_API_KEYS={quoted_json(named)}")


def list_keys(_: argparse.Namespace) -> None:
    """Print the names of all keys, and the models that each may use."""
    for name, key in load(KINDS).all_keys().items():
        models = f"  {', '.join(key.models)}" if key.models else ""
        print(f"{name}{models}")
