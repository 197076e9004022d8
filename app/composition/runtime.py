"""What outlives a reload: what is known of the servers, what is in flight, what was counted."""

import asyncio
import contextlib
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, TypedDict

import app
from app.apis.endpoints import OTHER
from app.apis.fronts import Fronts
from app.control.login import LoginPage
from app.control.snapshot import SnapshotJson, snapshot
from app.discovery.roster import Roster
from app.downstream.connections import Connections
from app.downstream.forwarded import Origin
from app.keys.key_ring import KeyRing
from app.keys.wrong_keys import WrongKeys
from app.proxy.buffer import Buffer
from app.proxy.exchange import Exchange
from app.proxy.loops import Loops
from app.proxy.owners import Owners
from app.proxy.queue import RequestQueue
from app.routing.balancer import Balancer
from app.routing.patterns import Patterns
from app.settings import Settings
from app.settings.trust import Trust
from app.telemetry import logs
from app.telemetry.access import AccessStats
from app.telemetry.batcher import Batcher
from app.telemetry.changed_prompts import ChangedPrompts
from app.telemetry.gpu.find import find_reader
from app.telemetry.gpu.reader import GpuReader
from app.telemetry.gpu.sampler import GpuSampler
from app.telemetry.metrics import Metrics
from app.telemetry.recent_requests import RecentRequests
from app.telemetry.reloads import Reloads
from app.telemetry.usage_history import UsageHistory
from app.upstream.introspection.introspection import NAMES as KINDS
from app.upstream.pool import Pool
from app.upstream.prober import Prober
from app.upstream.waker import Waker

if TYPE_CHECKING:
    from app.store.places import SharedPlaces
    from app.telemetry.tracing import Tracing  # an extra: it is there where it is asked for


class Runtime:
    """Everything that has a memory, and the settings that it goes by."""

    def __init__(self, settings: Settings, reader: GpuReader | None = None) -> None:
        """Begin; `reader` reads GPUs other than this machine's.

        Raises:
            SettingsError: the keys cannot be read.
        """
        self.roster = Roster(
            settings,
            KINDS,
            clock=time.monotonic,
            changed=self._follow,
            drain=lambda server, on: self.balancer.drain(server, on=on, by="agent"),
            in_flight=self._in_flight_at,
        )
        settings = self.roster.settings
        self.balancer = Balancer(
            settings.fleet(), clock=time.monotonic, chance=random.random, **_rules(settings)
        )
        self.balancer.on_change = logs.server_changed
        self.balancer.on_introduced = logs.server_introduced
        self.waker = Waker(self.balancer, logs.task_failed)
        self.waker.servers = settings.servers
        self.pools: dict[str, Pool] = {}
        """The connections to each server."""
        self._left: list[Pool] = []
        """Those to servers that were removed."""
        self._doors: dict[str, tuple[str, str | None, dict[str, str], Trust]] = {}
        """Where each leads, as whom the server knows us, and whom we believe."""
        self._follow_servers(settings)
        self.keys = settings.key_ring()
        self.queue = RequestQueue(
            self.balancer, capacity=settings.queue_max, timeout=settings.queue_timeout
        )
        self.places = (
            _places(settings, self.balancer, self.keys, self.queue) if settings.valkey_url else None
        )
        self.sampler = GpuSampler(
            reader or find_reader(),
            interval=settings.probe_interval,
            window_seconds=settings.window_seconds,
            busy_percent=settings.gpu_busy_percent,
        )
        self.in_flight = dict.fromkeys([*settings.routed_paths, OTHER], 0)
        """Requests under way, by endpoint."""
        self.reloads = Reloads()
        self.meters = Metrics(
            self.balancer,
            self.sampler,
            waiting=self.queue.by_model,
            in_flight=lambda: self.in_flight,
            version=app.__version__,
            reloads=self.reloads,
            store=self.places,
        )
        if self.places is not None:
            self.places.timed = self.meters.stored
            self.places.knowledge.heard_of_server = self.roster.hear_of_server
            self.places.machines.heard = self.roster.hear_of_machine
            self.roster.on_added = self.places.knowledge.added
            self.roster.on_said = self.places.machines.said
            self.balancer.queued_elsewhere = self.places.knowledge.waiting_for
        self.prober = Prober(
            self.balancer.backends(),
            self.pools,
            self.balancer.observe if self.places is None else self.places.probes.observe,
            **_pace(settings),
            checked=self.meters.checked,
            failed=logs.task_failed,
            is_told=None if self.places is None else self.places.probes.has,
        )
        self.stats = AccessStats()
        self.changed_prompts = ChangedPrompts()
        self.recent = RecentRequests()
        self.usage = UsageHistory(settings.state_dir, self.stats.fresh)
        self.underway: set[Exchange] = set()
        """The model requests that have not ended."""
        self.tracing = _tracing() if settings.traces else None
        self.batcher = Batcher(
            self.meters.finished,
            logs.RequestLog().finished,
            self.stats.finished,
            self.changed_prompts.finished,
            self.recent.finished,
            *([] if self.tracing is None else [self.tracing.finished]),
        )
        self.fronts = Fronts(time.monotonic, logs.front_kept)
        self.buffer = Buffer(settings.max_buffered_bytes)
        self.parser = ThreadPoolExecutor(1, thread_name_prefix="bodies")
        """Reads long bodies, one after another: many threads would leave the loop little time."""
        self.loops = Loops(settings.servers)
        self.forwarding = set(settings.forwarding())
        """Servers that get their clients' credentials."""
        self.owners = Owners()
        self.wrong_keys = WrongKeys(logs.wrong_key)
        self.login_page = LoginPage()
        self.connections = Connections()
        self._bound_connections(settings)

    def change(self, settings: Settings, keys: KeyRing) -> None:
        """Go by other settings and their keys from now on; nothing in flight is touched."""
        self.keys.become(keys)
        self.roster.written = settings
        self._follow()
        self.queue.change(capacity=settings.queue_max, timeout=settings.queue_timeout)
        self.sampler.change(
            interval=settings.probe_interval,
            window_seconds=settings.window_seconds,
            busy_percent=settings.gpu_busy_percent,
        )
        for path in settings.routed_paths:
            self.in_flight.setdefault(path, 0)
        self.buffer.limit = settings.max_buffered_bytes
        self._bound_connections(settings)

    @property
    def settings(self) -> Settings:
        """The settings that hold now, with the servers that were found."""
        return self.roster.settings

    def _follow(self) -> None:
        """Go by the servers that there are now."""
        self.roster.refresh()
        settings = self.settings
        fleet = settings.fleet()
        self.waker.servers = settings.servers
        self.balancer.reconfigure(fleet, **_rules(settings))
        self._follow_servers(settings)
        self.meters.expect(fleet.servers)
        self.loops.expect(fleet.servers)
        self.forwarding.clear()
        self.forwarding.update(settings.forwarding())
        self.prober.change(self.balancer.backends(), **_pace(settings))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look after the servers and this machine's GPUs, as long as the context lasts."""
        self.sampler.start()
        roster = self.roster
        await roster.names.look(roster.written.servers)
        self.balancer.await_answers()
        if self.places is not None:
            await self.places.open()
        self.prober.start()
        tasks = [
            asyncio.create_task(work, name=name)
            for name, work in {
                "event loop lag": self.meters.watch_event_loop(),
                "dns": roster.names.watch(lambda: roster.written.servers),
                "machines": roster.joined.watch(),
                "sleep": self.waker.watch(),
                "usage": self.usage.watch(),
                **({} if self.places is None else {"store": self.places.watch()}),
            }.items()
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await self.close()

    async def close(self) -> None:
        """Close the connections to servers, and end what looks after them."""
        await self.prober.stop()
        for pool in (*self.pools.values(), *self._left):
            pool.close()
        self.sampler.stop()
        self.parser.shutdown(wait=False, cancel_futures=True)
        self.batcher.flush()
        self.usage.close()
        if self.places is not None:
            await self.places.close()
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)

    async def render(self, content_type: str) -> bytes:
        """Write the metrics as a content type says."""
        self.batcher.flush()
        return await self.meters.render(content_type)

    def _in_flight_at(self, server: str) -> int:
        ledger = self.balancer.backend(server).ledger
        return ledger.total + ledger.others

    def unready(self) -> str:
        """Say why no request could be served, if so. An agent has no servers, and is ready."""
        backends = list(self.balancer.backends())
        if backends and all(b.status in ("invalid", "loading", "draining") for b in backends):
            return "no server is up"
        return ""

    def counted(self) -> dict[str, object]:
        """Return who asked for which model."""
        self.batcher.flush()
        return self.stats.snapshot()

    def state(self, most: int | None = None) -> SnapshotJson:
        """Return the present state, with `most` pins and requests at the most."""
        self.batcher.flush()
        return snapshot(
            self.balancer,
            self.queue,
            self.sampler,
            time.time(),
            changed_prompts=self.changed_prompts.worst(),
            may_drain=self.settings.admin_key is not None,
            open_at=self.settings.open_at(),
            reloads=self.reloads,
            store=None if self.places is None else self.places.snapshot(),
            most=most,
        )

    def _follow_servers(self, settings: Settings) -> None:
        """Have connections to the servers that there are; those in use elsewhere end by themselves.

        The mapping is the one that requests look into, so that it changes for all at once.
        """
        timeouts: _Timeouts = {
            "connect_timeout": settings.connect_timeout,
            "first_byte_timeout": settings.first_byte_timeout,
            "idle_timeout": settings.idle_timeout,
            "linger": settings.cancel_timeout,
        }
        servers = self.balancer.fleet.servers
        doors = {
            name: (servers[name].model_base, servers[name].address, told.own_headers, told.trust)
            for name, told in settings.servers.items()
        }
        for name in [*self.pools]:
            if name not in servers or self._doors[name] != doors[name]:
                self._left.append(self.pools.pop(name))
        self._left = [pool for pool in self._left if pool.in_use]
        for name, server in servers.items():
            if name in self.pools:
                self.pools[name].change(**timeouts)
            else:
                _, address, headers, trust = doors[name]
                self.pools[name] = Pool(
                    server.model_base,
                    failed=logs.task_failed,
                    headers=headers,
                    address=address,
                    context=None if trust == Trust() else trust.context(),
                    **timeouts,
                )
                if not trust.verify:
                    logs.unverified(name)
        self._doors = doors

    def _bound_connections(self, settings: Settings) -> None:
        self.connections.bound(
            settings.max_connections,
            settings.max_connections_per_client,
            Origin(settings.trusted_networks()).trusts,
        )


class _Timeouts(TypedDict):
    connect_timeout: float
    first_byte_timeout: float
    idle_timeout: float
    linger: float


class _Rules(TypedDict):
    sticky_ttl: float
    window_length: int
    overflow: Literal["queue", "first"]
    adopt_slots: bool
    numbered: bool
    rise: int
    fall: int
    tier_wait: float
    hold_max: float
    wait_max: float
    pinned: Callable[[str], bool] | None
    saved_prompts: int


def _rules(settings: Settings) -> _Rules:
    return {
        "sticky_ttl": settings.sticky_ttl,
        "window_length": max(1, round(settings.window_seconds / settings.probe_interval)),
        "overflow": settings.overflow,
        "adopt_slots": settings.adopt_slots,
        "numbered": settings.instances == "numbered",
        "rise": settings.probe_rise,
        "fall": settings.probe_fall,
        "tier_wait": settings.tier_wait,
        "hold_max": settings.hold_max,
        "wait_max": settings.queue_timeout / 2,  # so that nobody times out beside a held place
        "pinned": _pinned(settings.pin_models),
        "saved_prompts": settings.saved_prompts,
    }


def _places(
    settings: Settings, balancer: Balancer, keys: KeyRing, queue: RequestQueue
) -> "SharedPlaces":
    from app.store.places import SharedPlaces

    assert settings.valkey_url is not None
    return SharedPlaces(
        settings.valkey_url.get_secret_value(),
        settings.valkey_prefix,
        balancer,
        away=settings.on_store_failure,
        allowances=keys.limited,
        waiting=queue.by_model,
        failed=logs.task_failed,
    )


def _tracing() -> "Tracing":
    from app.telemetry.tracing import Tracing

    return Tracing(app.__version__)


def _pinned(models: Sequence[str]) -> Callable[[str], bool] | None:
    if not models:
        return None
    patterns = Patterns([(re.compile(model), True) for model in models])
    return lambda name: patterns.find(name) is not None


class _Pace(TypedDict):
    interval: float
    models_interval: float
    connect_timeout: float
    read_timeout: float


def _pace(settings: Settings) -> _Pace:
    return {
        "interval": settings.probe_interval,
        "models_interval": settings.models_interval,
        "connect_timeout": settings.probe_connect_timeout,
        "read_timeout": settings.probe_read_timeout,
    }
