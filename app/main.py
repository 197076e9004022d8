"""Builds every object once, and runs them."""

import asyncio
import contextlib
import functools
import random
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from ipaddress import ip_network

import structlog
from fastapi import FastAPI
from fastapi.routing import APIRoute

import app
from app.apis.aliases import Aliases
from app.apis.fronts import Fronts
from app.apis.rewrites import Rewrites
from app.apis.stable_prompts import known, untouched
from app.control import admin, login, routes
from app.control.access import Access
from app.control.dashboard import page
from app.control.dispatch import Dispatch
from app.control.explain import explain
from app.control.login import LoginPage
from app.control.session import Sessions
from app.control.snapshot import SnapshotJson, snapshot
from app.control.watched_files import WatchedFiles
from app.downstream import asgi
from app.downstream.connection import Handler
from app.downstream.connections import Connections
from app.downstream.forwarded import Origin
from app.downstream.hosts import Hosts
from app.downstream.server import (
    Server,
    allow_many_files,
    collect_garbage_rarely,
    config,
    return_memory,
)
from app.keys.wrong_keys import WrongKeys
from app.proxy.buffer import Buffer
from app.proxy.cors import Cors
from app.proxy.model_request import ModelRequest, Reading, username_finder
from app.proxy.proxy import Proxy
from app.proxy.queue import RequestQueue
from app.routing.balancer import Balancer
from app.settings import Settings
from app.telemetry import logs, metrics
from app.telemetry.access import AccessStats
from app.telemetry.batcher import Batcher
from app.telemetry.changed_prompts import ChangedPrompts
from app.telemetry.gpu.find import find_reader
from app.telemetry.gpu.reader import GpuReader
from app.telemetry.gpu.sampler import GpuSampler
from app.telemetry.metrics import Metrics
from app.upstream.pool import Pool
from app.upstream.prober import Prober


@dataclass(frozen=True)
class App:
    """The balancer: who handles requests, and what is told of the start and the end."""

    handler: Handler
    lifespan: FastAPI
    connections: Connections
    watched: list[WatchedFiles]
    """Files that are read again while it runs."""


def create_app(
    settings: Settings, stopping: asyncio.Event | None = None, reader: GpuReader | None = None
) -> App:
    """Build the balancer.

    `stopping` ends the monitor's streams; `reader` reads GPUs other than this machine's.
    """
    balancer = Balancer(
        settings.fleet(),
        clock=time.monotonic,
        sticky_ttl=settings.sticky_ttl,
        window_length=max(1, round(settings.window_seconds / settings.probe_interval)),
        overflow=settings.overflow,
        adopt_slots=settings.adopt_slots,
        numbered=settings.instances == "numbered",
        rise=settings.probe_rise,
        fall=settings.probe_fall,
        chance=random.random,
    )
    balancer.on_change = logs.server_changed
    pools = {
        server.name: Pool(
            server.model_base,
            connect_timeout=settings.connect_timeout,
            first_byte_timeout=settings.first_byte_timeout,
            idle_timeout=settings.idle_timeout,
            linger=settings.cancel_timeout,
            failed=logs.task_failed,
        )
        for server in balancer.fleet.servers.values()
    }
    queue = RequestQueue(balancer, capacity=settings.queue_max, timeout=settings.queue_timeout)
    sampler = GpuSampler(
        reader or find_reader(),
        interval=settings.probe_interval,
        window_seconds=settings.window_seconds,
        busy_percent=settings.gpu_busy_percent,
    )
    in_flight = dict.fromkeys([*settings.routed_paths, "other"], 0)
    meters = Metrics(
        balancer,
        sampler,
        waiting=queue.by_model,
        in_flight=lambda: in_flight,
        version=app.__version__,
    )
    prober = Prober(
        balancer.backends(),
        pools,
        balancer.observe,
        interval=settings.probe_interval,
        models_interval=settings.models_interval,
        connect_timeout=settings.probe_connect_timeout,
        read_timeout=settings.probe_read_timeout,
        checked=meters.checked,
        failed=logs.task_failed,
    )
    stats = AccessStats()
    changed_prompts = ChangedPrompts()
    batcher = Batcher(
        meters.finished,
        logs.RequestLog().finished,
        stats.finished,
        changed_prompts.finished,
    )
    reading = Reading(
        username_finder(re.compile(settings.username_pattern)),
        Rewrites(
            reasoning=settings.rewrite_reasoning,
            edit_suffix=settings.rewrite_edit_suffix,
            grammar=settings.rewrite_grammar,
            stabilise=_stabilise(settings),
        ),
        Aliases(settings.aliases),
        prompts=settings.affinity == "prompt",
    )
    keys = settings.key_ring()
    watched: list[WatchedFiles] = []
    if (file := settings.api_keys_file) is not None:
        watched.append(WatchedFiles("keys", [file], lambda: keys.replace(settings.keys())))
    open_at = settings.open_at()
    hosts = Hosts(settings.allowed_hosts)
    cors = Cors(settings.origins())
    wrong_keys = WrongKeys(logs.wrong_key)
    sessions = Sessions(settings.admin_key.get_secret_value() if settings.admin_key else None)
    login_page = LoginPage()
    origin = Origin(ip_network(text) for text in settings.trusted_proxies)
    proxy = Proxy(
        balancer,
        pools,
        queue,
        origin=origin,
        read=functools.partial(ModelRequest, reading),
        rewrites=reading.rewrites,
        routed_paths=settings.routed_paths,
        max_body_bytes=settings.max_body_bytes,
        buffer=Buffer(settings.max_buffered_bytes),
        finished=batcher.put,
        in_flight=in_flight,
        tells_route=settings.route_headers,
        passes_control=settings.passes_control,
        keepalive=settings.stream_keepalive,
        keys=keys,
        wrong_keys=wrong_keys,
        hosts=hosts,
        cors=cors,
        forwarding=settings.forwarding(),
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if open_at is not None:
            logs.open_to_all(open_at)
        sampler.start()
        balancer.await_answers()
        prober.start()
        watching = [asyncio.create_task(meters.watch_event_loop(), name="event loop lag")]
        watching += [asyncio.create_task(files.watch(), name="files") for files in watched]
        try:
            yield
        finally:
            for task in watching:
                task.cancel()
            await prober.stop()
            for pool in pools.values():
                pool.close()
            sampler.stop()
            proxy.parser.shutdown(wait=False, cancel_futures=True)
            batcher.flush()

    async def render() -> bytes:
        batcher.flush()
        return await meters.render()

    def counted() -> dict[str, object]:
        batcher.flush()
        return stats.snapshot()

    def state(most: int | None = None) -> SnapshotJson:
        batcher.flush()
        return snapshot(
            balancer,
            queue,
            sampler,
            time.time(),
            changed_prompts=changed_prompts.worst(),
            may_drain=settings.admin_key is not None,
            open_at=open_at,
            most=most,
        )

    control = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    routers = [
        routes.routes(
            health=sampler.health,
            snapshot=state,
            stats=counted,
            backends=balancer.backends,
            aliases={
                name: reading.rewrites.names(model) for name, model in reading.aliases.names.items()
            },
            resolved=reading.aliases.model,
            metrics=render,
            metrics_type=metrics.CONTENT_TYPE,
        ),
        page.routes(
            lambda: state(page.MOST_ROWS),
            counted,
            stopping or asyncio.Event(),
            has_session=lambda request: sessions.opens(dict(request.scope["headers"])),
        ),
        admin.routes(
            explain=lambda *request: explain(balancer, proxy.read(*request).ask, time.time()),
            drain=lambda server, on: balancer.drain(server, on=on),
            servers=lambda: balancer.fleet.servers,
            max_body_bytes=settings.max_body_bytes,
        ),
        login.routes(
            page=login_page,
            sessions=sessions,
            keys=keys,
            wrong_keys=wrong_keys,
            origin=origin,
            pages=lambda: {path for path, _ in own},
        ),
    ]
    for router in routers:
        control.include_router(router)
    own = [
        (route.path, route.methods or ())
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute)
    ]
    connections = Connections(
        settings.max_connections, settings.max_connections_per_client, origin.trusts
    )
    access = Access(
        keys, sessions, origin, wrong_keys, login_page, settings.opened(), hosts=hosts, cors=cors
    )
    guarded = asgi.handler(access.guarded(control))
    return App(Dispatch(guarded, proxy, own), control, connections, watched)


def _stabilise(settings: Settings) -> Callable[[bytes, str], bytes]:
    """Return what makes the system texts of conversations stable."""
    if settings.stable_prompts == "learn":
        return Fronts(time.monotonic, logs.front_kept).settle
    return known if settings.stable_prompts == "known" else untouched


def serve(settings: Settings) -> None:
    """Serve until a signal says to stop, and let the requests under way end."""
    logs.configure(settings.log_format, settings.log_level)
    allow_many_files()
    collect_garbage_rarely()
    return_memory()
    stopping = asyncio.Event()
    app = create_app(settings, stopping)
    uvicorn_config = config(
        app.handler,
        app.lifespan,
        app.connections,
        host=settings.host,
        port=settings.port,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=settings.shutdown_timeout,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    if (certificate := settings.certificate) is not None:
        uvicorn_config.load()
        renew = functools.partial(certificate.load, uvicorn_config.ssl)
        app.watched.append(WatchedFiles("certificate", [certificate.chain, certificate.key], renew))
    for name in ("SIGHUP", "SIGUSR1", "SIGUSR2"):  # Windows has none of them
        if (number := getattr(signal, name, None)) is not None:
            signal.signal(number, _ignored)
    # uvicorn raises the signals that stopped it once more: stopping as asked is no failure.
    signal.signal(signal.SIGTERM, lambda *_: None)
    with contextlib.suppress(KeyboardInterrupt):
        Server(
            uvicorn_config, stopping.set, silence=settings.idle_timeout, failed=logs.task_failed
        ).run()


def _ignored(number: int, _: object) -> None:
    """Log a signal that means nothing yet, instead of dying of it."""
    log = structlog.get_logger(__name__)
    # Not here: the signal may have come while another line is written.
    with contextlib.suppress(RuntimeError):
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(
            functools.partial(log.warning, "signal.ignored", signal=signal.Signals(number).name)
        )
