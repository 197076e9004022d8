"""Starts the balancer, and has it serve until it is told to stop."""

import asyncio
import contextlib
import functools
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from fastapi import FastAPI

from app.apis.paths import MONITOR
from app.composition.reloader import Reloader
from app.composition.runtime import Runtime
from app.control.running_file import Running
from app.control.watched_files import WatchedFiles
from app.discovery import mdns
from app.discovery.membership import Membership
from app.downstream.connection import Handler
from app.downstream.connections import Connections
from app.downstream.server import (
    CannotListen,
    Server,
    allow_many_files,
    collect_garbage_rarely,
    config,
    return_memory,
)
from app.downstream.workers import Worker, Workers
from app.settings import Settings
from app.settings.doubts import doubts
from app.settings.listening import published_port, reached_at
from app.telemetry import logs
from app.telemetry.gpu.reader import GpuReader


@dataclass(frozen=True)
class App:
    """The balancer: who handles requests, and what is told of the start and the end."""

    handler: Handler
    lifespan: FastAPI
    connections: Connections
    watched: list[WatchedFiles]
    """Files that are read again while it runs."""
    reloader: Reloader
    server_files: Callable[[], list[Path]]
    """Names the files that hold servers' keys and certificates."""
    admit: Callable[[str], None]
    """Takes one key more for the administrator's."""
    in_flight: Callable[[], int]
    """Counts the requests under way."""
    gpu_backend: str
    """How this machine's GPUs are read; `none` where they cannot be."""


def create_app(
    settings: Settings,
    stopping: asyncio.Event | None = None,
    reader: GpuReader | None = None,
    load: Callable[[], Settings] | None = None,
    *,
    announces: bool = True,
) -> App:
    """Build the balancer.

    `stopping` ends the monitor's streams; `reader` reads GPUs other than this machine's; `load`
    reads the settings again; it `announces` itself on the network, or joins another, if it shall.
    """
    runtime = Runtime(settings, reader)
    stop = stopping or asyncio.Event()
    reloader = Reloader(runtime, load or (lambda: settings), stop)
    watched: list[WatchedFiles] = []

    def keys_file() -> list[Path]:
        file = runtime.settings.api_keys_file
        return [] if file is None else [file]

    watched.append(
        WatchedFiles("keys", keys_file, lambda: runtime.keys.replace(runtime.settings.keys()))
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        join = settings.join if announces else None
        membership = join and Membership(join, lambda: runtime.settings)
        if (open_at := settings.open_at()) is not None:
            logs.open_to_all(open_at)
        logs.doubtful(doubts(settings))
        async with runtime.running():
            watching = [asyncio.create_task(files.watch(), name="files") for files in watched]
            joining = asyncio.create_task(membership.keep(stop)) if membership else None
            try:
                async with _announced(settings) if announces else contextlib.nullcontext():
                    yield
            finally:
                if joining is not None:
                    stop.set()
                    await joining
                for task in watching:
                    task.cancel()

    return App(
        reloader.handler,
        FastAPI(lifespan=lifespan),
        runtime.connections,
        watched,
        reloader,
        lambda: runtime.settings.server_files(),
        runtime.keys.admit,
        lambda: sum(runtime.in_flight.values()),
        runtime.sampler.backend,
    )


@contextlib.asynccontextmanager
async def _announced(settings: Settings) -> AsyncIterator[None]:
    """Announce a balancer that machines may join, where there is what it takes."""
    if not (settings.lets_join and mdns.is_there() and reached_at(settings.host) is not None):
        yield
        return
    port = published_port() or settings.port
    async with mdns.announced(port, tls=settings.tls_cert is not None):
        yield


def serve(settings: Settings, load: Callable[[], Settings], written_in: list[Path]) -> None:
    """Serve until a signal says to stop, and let the requests under way end.

    `load` reads the settings again, when that is asked for or a file changes that they are
    `written_in`.
    """
    logs.configure(settings.log_format, settings.log_level)
    worker = Worker.here()
    if settings.workers > 1 and worker is None:
        _serve_by_workers(settings)
        return
    allow_many_files()
    collect_garbage_rarely()
    return_memory()
    stopping = asyncio.Event()
    first = worker is None or worker.number == 1
    app = create_app(settings, stopping, load=load, announces=first)
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
    certificate = settings.certificate
    if certificate is not None:
        uvicorn_config.load()
        files = [certificate.chain, certificate.key]
        renew = functools.partial(certificate.load, uvicorn_config.ssl)
        app.watched.append(WatchedFiles("certificate", lambda: files, renew))
    app.watched.append(
        WatchedFiles(
            "settings",
            lambda: [*written_in, *app.server_files()],
            app.reloader.reload,
            settles=True,
        )
    )
    here = Running.here(settings.host, settings.port, tls=certificate is not None)
    app.admit(here.key if worker is None else worker.key)
    _reload_on_hangup(app.reloader)
    # uvicorn raises the signals that stopped it once more: stopping as asked is no failure.
    signal.signal(signal.SIGTERM, lambda *_: None)

    def stop() -> None:
        logs.stopping(app.in_flight())
        stopping.set()

    def listening() -> None:
        if worker is not None:
            worker.stop_with_parent()
        logs.listening(here.url, _page(here.url), [*settings.servers], app.gpu_backend)

    server = Server(
        uvicorn_config,
        stop,
        listening=listening,
        delay=settings.drain_delay,
        silence=settings.idle_timeout,
        failed=logs.task_failed,
    )
    try:
        found = contextlib.nullcontext() if worker is not None else here.told()
        with contextlib.suppress(KeyboardInterrupt), found:
            server.run(None if worker is None else worker.sockets())
    except CannotListen as error:
        logs.cannot_listen(settings.host, settings.port, str(error))
        raise SystemExit(1) from None
    logs.stopped()


def _serve_by_workers(settings: Settings) -> None:
    """Have several processes serve, until a signal says to stop."""
    here = Running.here(settings.host, settings.port, tls=settings.certificate is not None)
    try:
        workers = Workers(
            settings.host, settings.port, settings.workers, here.key, logs.worker_ended
        )
    except CannotListen as error:
        logs.cannot_listen(settings.host, settings.port, str(error))
        raise SystemExit(1) from None
    with here.told():
        if not workers.run():
            raise SystemExit(1)


def _page(own: str) -> str:
    """Return where the page is, seen from this machine, where the program itself is at `own`."""
    port = published_port()
    if port is not None:
        own = f"{own.partition('://')[0]}://127.0.0.1:{port}"
    return own + MONITOR


def _reload_on_hangup(reloader: Reloader) -> None:
    """Take SIGHUP for the wish to reload, and die of no signal that means nothing."""
    tasks: set[asyncio.Task[object]] = set()

    def begin() -> None:
        task = asyncio.ensure_future(reloader.reload())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def on_signal(number: int, _: object) -> None:
        name = signal.Signals(number).name
        told = begin if name == "SIGHUP" else functools.partial(_log_ignored, name)
        # Not here: the signal may have come while another line is written.
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().call_soon_threadsafe(told)

    for name in ("SIGHUP", "SIGUSR1", "SIGUSR2"):  # Windows has none of them
        if (number := getattr(signal, name, None)) is not None:
            signal.signal(number, on_signal)


def _log_ignored(name: str) -> None:
    structlog.get_logger(__name__).warning("signal.ignored", signal=name)
