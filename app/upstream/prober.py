"""Asks every server, again and again, how it is and which models it has."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping

from app.routing.backend import Backend
from app.routing.observations import Observation
from app.upstream.pool import Pool
from app.upstream.server_probe import CheckResult, IsTold, Pace, ServerProbe


class Prober:
    """Probes each server by tasks of its own, so that a dead one never delays the others.

    Every `interval` seconds a server's health address is asked for its GPU load, and every
    `models_interval` seconds its model API for its models; every `interval` while that fails, and
    where there is no health address. Servers are also asked what they tell of themselves, as
    long as they can be reached. Model APIs are reached over `pools`, as requests are. `observe`
    is called with what came of it; `checked` with each probe of a health address, or of a
    model list in its stead, and how many seconds it took; `failed` after a fault of our own.
    `is_told` says of what others probe whether they have seen it within some seconds. Timeouts are
    in seconds.
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
        is_told: IsTold | None = None,
    ) -> None:
        self._pools = pools
        self._observe = observe
        self._pace = Pace(interval, models_interval, connect_timeout, read_timeout)
        self._clock = clock
        self._checked = checked
        self._failed = failed
        self._is_told = is_told
        self._probes = {id(backend): self._probe(backend) for backend in backends}
        self._tasks: dict[int, list[asyncio.Task[None]]] = {}

    def start(self) -> None:
        """Probe from now on."""
        for number, probe in self._probes.items():
            if number not in self._tasks:
                self._tasks[number] = [
                    asyncio.create_task(work, name=f"probe {probe.server.name}")
                    for work in (probe.watch(), probe.introspect(), probe.introduce())
                ]

    def change(
        self,
        backends: Iterable[Backend],
        *,
        interval: float,
        models_interval: float,
        connect_timeout: float,
        read_timeout: float,
    ) -> None:
        """Probe these servers from now on, and no others."""
        pace = Pace(interval, models_interval, connect_timeout, read_timeout)
        before, self._probes = self._probes, {}
        same_pace, self._pace = pace == self._pace, pace
        for backend in backends:
            number = id(backend)
            probe = before.pop(number, None)
            if probe is None or not (same_pace and probe.is_of(backend, self._pools)):
                self._end(number, probe)
                probe = self._probe(backend)
            self._probes[number] = probe
        for number, removed in before.items():
            self._end(number, removed)
        self.start()

    async def stop(self) -> None:
        """Probe no more."""
        tasks = [task for tasks in self._tasks.values() for task in tasks]
        for number, probe in self._probes.items():
            self._end(number, probe)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _probe(self, backend: Backend) -> ServerProbe:
        return ServerProbe(
            backend,
            self._pools[backend.server.name],
            self._observe,
            self._pace,
            self._clock,
            self._checked,
            self._failed,
            self._is_told,
        )

    def _end(self, number: int, probe: ServerProbe | None) -> None:
        for task in self._tasks.pop(number, ()):
            task.cancel()
        if probe is not None:
            probe.close()
