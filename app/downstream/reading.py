"""Turns at reading: who sends fast does not keep the event loop from the others."""

import asyncio
from collections.abc import Callable
from typing import Final

TURN: Final = 64 * 1024
"""After so many bytes at once the others have their turn.

libuv would read on from one connection, up to 8 MB in a row:
https://docs.libuv.org/en/v1.x/stream.html
"""


def rest(transport: asyncio.Transport, go_on: Callable[[], None]) -> None:
    """Read nothing more until the others had their turn; then `go_on` should resume."""
    transport.pause_reading()
    asyncio.get_running_loop().call_soon(go_on)
