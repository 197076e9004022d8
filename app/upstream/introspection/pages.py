"""Reading what model servers say, which may be anything."""

import json
import math
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Page = tuple[int, bytes]
"""A response's status and body."""

Get = Callable[[str], Awaitable[Page]]
"""Asks for a path.

Raises:
    Silent: there is no response that could be read.
"""


class Silent(Exception):
    """No response came, or none that can be read."""


def json_of(page: Page) -> Any:
    """Read JSON; None where there is none."""
    status, body = page
    if status != 200:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def required(page: Page) -> Any:
    """Read JSON from a page that its kind has: an error in its place does not say that it is empty.

    Raises:
        Silent: there is none.
    """
    if page[0] != 200:
        raise Silent
    return json_of(page)


def members(page: Page) -> dict[str, Any]:
    """Read a JSON object; empty where there is none."""
    found = json_of(page)
    return found if isinstance(found, dict) else {}


def objects(found: Any, name: str) -> list[dict[str, Any]]:
    """List the objects in a member of a JSON object."""
    inner = found.get(name) if isinstance(found, dict) else None
    return [x for x in inner if isinstance(x, dict)] if isinstance(inner, list) else []


def texts(found: Iterable[dict[str, Any]], name: str) -> frozenset[str]:
    """Collect the texts in a member of some objects."""
    return frozenset(x[name] for x in found if isinstance(x.get(name), str))


def is_number(value: object) -> bool:
    """Whether a value is a whole number from 0 on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def contexts(told: Iterable[tuple[object, object]]) -> dict[str, int]:
    """Read how many tokens models have, from pairs that may be anything."""
    return {
        name: tokens
        for name, tokens in told
        if isinstance(name, str) and isinstance(tokens, int) and is_number(tokens) and tokens
    }


def total(page: Page, series: re.Pattern[bytes]) -> int | None:
    """Add up some series of a page of metrics; None where there are none."""
    status, body = page
    if status != 200:
        return None
    values = []
    for text in series.findall(body):
        try:
            value = float(text)
        except ValueError:
            continue
        if math.isfinite(value) and value >= 0:
            values.append(int(value))
    return sum(values) if values else None
