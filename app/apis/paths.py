"""Paths as servers understand them."""

import posixpath
import re
from typing import Final

MONITOR: Final = "/llmhealth-monitor"
"""The page."""

_SLASHES: Final = re.compile("/{2,}")


def cleaned(path: str) -> str:
    """Write a path so that it can be compared: `//v1/models/` is `/v1/models`.

    Many join the address and the path with a slash too many (RFC 3986 section 6.2.2.3).
    """
    if "//" not in path and "/." not in path and (not path.endswith("/") or path == "/"):
        return path
    return posixpath.normpath(_SLASHES.sub("/", path))
