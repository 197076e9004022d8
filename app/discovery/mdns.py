"""Finding the balancer on the local network by multicast DNS (RFC 6762, RFC 6763).

`zeroconf` is an extra: who writes addresses does not need it.
"""

import asyncio
import contextlib
import importlib.util
import socket
from collections.abc import AsyncIterator
from typing import Final

import structlog

from app.discovery.interfaces import interfaces
from app.settings.listening import bracketed

SERVICE: Final = "_llama-balancer._tcp.local."

PATIENCE: Final = 3.0
"""Seconds that balancers have to respond."""

log: Final = structlog.get_logger(__name__)


def is_there() -> bool:
    """Whether the extra is installed."""
    return importlib.util.find_spec("zeroconf") is not None


@contextlib.asynccontextmanager
async def announced(port: int, *, tls: bool) -> AsyncIterator[None]:
    """Announce a balancer to its network, as long as the context lasts."""
    from zeroconf import NonUniqueNameException
    from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

    host = socket.gethostname().partition(".")[0]
    info = AsyncServiceInfo(
        SERVICE,
        f"{host}-{port}.{SERVICE}",
        port=port,
        properties={"scheme": "https" if tls else "http"},
        server=f"{host}.local.",
        parsed_addresses=[str(one.ip) for one in interfaces()],
    )
    async with AsyncZeroconf() as network:
        try:
            await network.async_register_service(info, allow_name_change=True)
        except NonUniqueNameException:
            log.warning("mdns.name_taken", name=info.name)
        yield


async def find_balancer() -> str | None:
    """Return the address of a balancer that announces itself; None where none does."""
    from zeroconf import ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

    names: asyncio.Queue[str] = asyncio.Queue()

    def on_change(
        zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if state_change is ServiceStateChange.Added:
            names.put_nowait(name)

    async with AsyncZeroconf() as network:
        browser = AsyncServiceBrowser(network.zeroconf, SERVICE, handlers=[on_change])
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    info = AsyncServiceInfo(SERVICE, await names.get())
                    await info.async_request(network.zeroconf, PATIENCE * 1000)
                    if (
                        url := _url(info.parsed_addresses(), info.port, info.properties)
                    ) is not None:
                        return url
        except TimeoutError:
            return None
        finally:
            await browser.async_cancel()


def _url(
    addresses: list[str], port: int | None, properties: dict[bytes, bytes | None]
) -> str | None:
    if not addresses or port is None:
        return None
    scheme = (properties.get(b"scheme") or b"http").decode("ascii", "replace")
    host = min(addresses, key=lambda address: ":" in address)  # the older protocol first
    return f"{scheme}://{bracketed(host)}:{port}"
