"""An event loop whose clock jumps to the next thing that is due."""

import asyncio
import heapq
from typing import Any


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs timers in their order, and waits for none of them."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual = 0.0

    def time(self) -> float:
        return self._virtual

    def _run_once(self) -> None:
        this: Any = self
        while this._scheduled and this._scheduled[0]._cancelled:
            heapq.heappop(this._scheduled)._scheduled = False
            this._timer_cancelled_count -= 1
        if not this._ready and this._scheduled:
            self._virtual = max(self._virtual, this._scheduled[0]._when)
        super()._run_once()  # type: ignore[misc]
