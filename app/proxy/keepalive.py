"""When a client whose stream is silent is due for a sign of life."""

import asyncio
from collections.abc import Callable
from typing import Final

TICK: Final = 0.002
"""How much too early a loop's timer may be, in seconds: uvloop's count milliseconds."""


class Keepalive:
    """Calls `show` whenever nothing has come for `interval` seconds, until its end.

    `heard_at` returns when something came last, in the loop's seconds.
    """

    __slots__ = ("_alive_at", "_heard_at", "_interval", "_show", "_timer")

    def __init__(
        self, interval: float, heard_at: Callable[[], float], show: Callable[[], None]
    ) -> None:
        self._interval = interval
        self._heard_at = heard_at
        self._show = show
        self._wait_from(asyncio.get_running_loop().time())

    def end(self) -> None:
        """Call nothing any more."""
        self._timer.cancel()

    def _wait_from(self, alive_at: float) -> None:
        self._alive_at = alive_at
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(alive_at + self._interval, self._look)

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        alive_at = max(self._alive_at, self._heard_at())
        if now - alive_at < self._interval - TICK:
            self._wait_from(alive_at)
        else:
            self._wait_from(now)
            self._show()
