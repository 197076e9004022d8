"""Signs of life for clients whose requests wait for a place."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from app.routing.balancer import Refusal
from app.routing.ledger import Lease


async def with_heartbeat(
    waiting: Coroutine[Any, Any, Lease | Refusal], every: float, beat: Callable[[], Awaitable[None]]
) -> Lease | Refusal:
    """Wait for a place, with a `beat` after `every` so many seconds.

    Where a beat fails, or somebody cancels, a place that comes all the same is given back.
    """
    task = asyncio.ensure_future(waiting)
    try:
        while not task.done():
            await asyncio.wait((task,), timeout=every)
            if not task.done():
                await beat()
    except BaseException:
        task.cancel()
        task.add_done_callback(_give_back)
        raise
    return task.result()


def _give_back(waited: "asyncio.Task[Lease | Refusal]") -> None:
    """Give back a place that came to somebody who was leaving."""
    if not waited.cancelled() and waited.exception() is None:
        lease = waited.result()
        if isinstance(lease, Lease):
            lease.release()
