"""Asks every server, again and again, how it is and which models it has."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping

from app.routing.backend import Backend
from app.routing.observations import Observation
from app.upstream.pool import Pool
from app.upstream.server_probe import CheckResult, Pace, ServerProbe


class Prober:
    """Probes each server by tasks of its own, so that a dead one never delays the others.

    Every `interval` seconds a server's health address is asked for its GPU load, and every
    `models_interval` seconds its model API for its models; every `interval` while that fails, and
    where there is no health address. Servers are also asked what they tell of themselves, as
    long as they can be reached. Model APIs are reached over `pools`, as requests are. `observe`
    is called with what came of it; `checked` with each probe of a health address, or of a
    model list in its stead, and how many seconds it took; `failed` after a fault of our own.
    Timeouts are in seconds.
    """

    def __init__(
        self,
        backends: Iterable[Backend],
        pools: Mapping[str, Pool],
        observe: Callable[[Observation], None],
        *,
        interval: float = 1.0,
        models_interval: float = 10.0,
        connect_timeout: float = 5.0,
        read_timeout: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
        checked: Callable[[str, CheckResult, float], None] = lambda *_: None,
        failed: Callable[..., None] = lambda *_, **__: None,
    ) -> None:
        pace = Pace(interval, models_interval, connect_timeout, read_timeout)
        self._probes = [
            ServerProbe(backend, pools[backend.server.name], observe, pace, clock, checked, failed)
            for backend in backends
        ]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Probe from now on."""
        self._tasks = [
            asyncio.create_task(work, name=f"probe {probe.server.name}")
            for probe in self._probes
            for work in (probe.watch(), probe.introspect(), probe.introduce())
        ]

    async def stop(self) -> None:
        """Probe no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for probe in self._probes:
            probe.close()
