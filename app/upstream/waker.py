"""Wakes machines that sleep, and has those sleep that nobody uses."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import Final
from urllib.parse import urlsplit

import structlog

from app.routing.backend import Backend
from app.routing.balancer import Balancer
from app.settings import ServerSettings
from app.settings.signal import Signal
from app.upstream.errors import UpstreamError
from app.upstream.http import Client
from app.upstream.pool import Pool

DISCARD: Final = 9
"""The port that magic packets go to, by custom."""

REPEATS: Final = 5.0
"""Seconds between two packets: a machine that is about to sleep does not hear the first."""

SIGNAL_SECONDS: Final = 30.0
"""Seconds that a command or an address may take."""

FALL_LOOKS: Final = 60
"""So many looks after it was told to sleep, a machine is gone."""

REST_SECONDS: Final = 60.0
"""Seconds for which a machine that did not wake is not tried again."""

LOOKS: Final = 1.0
"""Seconds between two looks at how a machine is."""

log: Final = structlog.get_logger(__name__)


Work = Coroutine[None, None, None]


class SignalFailed(Exception):
    """A machine could not be told to wake or to sleep."""


class Waker:
    """Tells machines to wake and to sleep, as `servers` say, and follows what comes of it.

    `failed` is called after a fault of our own.
    """

    def __init__(self, balancer: Balancer, failed: Callable[..., None]) -> None:
        self.servers: Mapping[str, ServerSettings] = {}
        self._balancer = balancer
        self._failed = failed
        self._tasks: dict[str, asyncio.Task[None]] = {}
        balancer.on_wake = self._wake

    async def watch(self) -> None:
        """Look again and again which machines nobody uses, until this is cancelled."""
        try:
            while True:
                self._look()
                await asyncio.sleep(LOOKS)
        finally:
            for task in self._tasks.values():
                task.cancel()

    def _look(self) -> None:
        now = self._balancer.now()
        for backend in self._balancer.backends():
            told = self.servers.get(backend.server.name)
            if told is None or told.sleep is None or told.sleep_after is None:
                continue
            sleep = backend.sleep
            if backend.in_use or not sleep.used_at:
                sleep.used_at = max(sleep.used_at, now)
            elif sleep.state == "settled" and now - sleep.used_at >= told.sleep_after:
                self._begin(backend, self._lay_down(backend, told.sleep))

    def _wake(self, backend: Backend) -> None:
        self._begin(backend, self._rouse(backend, self.servers[backend.server.name]))

    def _begin(self, backend: Backend, work: Work) -> None:
        name = backend.server.name
        before = self._tasks.get(name)
        if before is not None:
            before.cancel()
        self._tasks[name] = asyncio.create_task(self._do(name, work), name=f"sleep {name}")

    async def _do(self, name: str, work: Work) -> None:
        try:
            await work
        except Exception:  # noqa: BLE001 - logged and counted
            self._failed("sleep", server=name)

    async def _rouse(self, backend: Backend, told: ServerSettings) -> None:
        """Wake a machine; give up where it does not wake, and let it be tried later."""
        sleep, name = backend.sleep, backend.server.name
        if told.wake is not None:
            try:
                await send(told.wake)
            except SignalFailed as error:
                log.warning("server.wake_failed", server=name, error=str(error))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(sleep.patience):
                while sleep.state == "waking":
                    if told.mac is not None:
                        await send_packet(told.mac, urlsplit(backend.server.model_base).hostname)
                    await asyncio.sleep(REPEATS)
        if sleep.state == "waking":
            self._balancer.settle(backend, "failed", "did not wake")
            await asyncio.sleep(REST_SECONDS)
            if sleep.failed:
                self._balancer.settle(backend, "settled", "may be tried again")

    async def _lay_down(self, backend: Backend, signal: Signal) -> None:
        """Have a machine sleep; go on with it where it does not."""
        sleep = backend.sleep
        self._balancer.settle(backend, "falling", "not used")
        error = f"it is still there after {FALL_LOOKS * LOOKS:g} s"
        try:
            await send(signal)
            for _ in range(FALL_LOOKS):
                if sleep.state != "falling":
                    return
                await asyncio.sleep(LOOKS)
        except SignalFailed as failed:
            error = str(failed)
        finally:
            if sleep.state == "falling":
                sleep.used_at = self._balancer.now()
                self._balancer.settle(backend, "settled", "does not sleep")
                log.warning("server.sleep_failed", server=backend.server.name, error=error)


async def send_packet(mac: str, host: str | None) -> None:
    """Send a magic packet: six bytes of ones, and sixteen times the card's address.

    It goes to all machines nearby, and to where the machine was: from a container, that may be
    the only way out. AMD, Magic Packet Technology (publication 20213), section 2.1.
    """
    packet = b"\xff" * 6 + bytes.fromhex(mac.replace(":", "")) * 16
    loop = asyncio.get_running_loop()
    to = {"255.255.255.255"}
    with contextlib.suppress(OSError):
        for *_, found in await loop.getaddrinfo(host, DISCARD, family=socket.AF_INET):
            where = str(found[0])
            to |= {where, f"{where.rpartition('.')[0]}.255"}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for address in to:
            with contextlib.suppress(OSError):  # one way may be closed where another is open
                sock.sendto(packet, (address, DISCARD))


async def send(signal: Signal) -> None:
    """Run a command, or ask an address.

    Raises:
        SignalFailed: the command cannot be run, ends with another status than 0 or not in time;
            the address cannot be reached, or says no.
    """
    try:
        async with asyncio.timeout(SIGNAL_SECONDS):
            if signal.command is not None:
                await _run(signal.command)
            elif signal.url is not None:
                await _post(signal.url)
    except TimeoutError:
        raise SignalFailed(f"it took longer than {SIGNAL_SECONDS:g} s") from None


async def _run(command: tuple[str, ...]) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise SignalFailed(f"{command[0]} cannot be run: {error.strerror}") from None
    try:
        _, said = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    if process.returncode:
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        raise SignalFailed(f"{command[0]} ended with status {process.returncode}: {last[:200]}")


async def _post(address: str) -> None:
    url = urlsplit(address)
    pool = Pool(f"{url.scheme}://{url.netloc}")
    try:
        client = Client(pool, connect_timeout=SIGNAL_SECONDS, silence=SIGNAL_SECONDS)
        status, _ = await client.send("POST", url._replace(scheme="", netloc="").geturl() or "/")
    except UpstreamError as error:
        raise SignalFailed(f"{url.netloc} does not respond: {error}") from None
    finally:
        pool.close()
    if status >= 400:
        raise SignalFailed(f"{url.netloc} responds with status {status}")
