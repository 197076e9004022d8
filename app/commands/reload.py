"""`llama-balancer reload`: have running balancers take in their settings."""

import argparse
from typing import Final

import httpx

from app.control.running_file import running
from app.settings import SettingsError

RELOAD_SECONDS: Final = 30
"""How long a reload may take."""


def reload(_: argparse.Namespace) -> None:
    """Tell each balancer of this user to read its settings anew, and print what came of it."""
    balancers = running()
    if not balancers:
        raise SettingsError(["no balancer of this user runs here"])
    for one in balancers:
        _reload_one(one.url, one.key)


def _reload_one(url: str, key: str) -> None:
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
