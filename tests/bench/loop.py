"""The event loop of the benchmark's own processes, and how many sockets they may have."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from app.downstream.server import allow_many_files


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop where there is one."""
    allow_many_files()
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)
