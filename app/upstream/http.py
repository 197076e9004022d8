"""httpx, for what is asked rarely: its requests go over the project's own connections."""

from collections.abc import Mapping
from types import MappingProxyType

import httpx

from app.upstream.errors import Garbled
from app.upstream.fetch import fetch
from app.upstream.pool import Pool

RESPONSE_LIMIT = 16 * 1024 * 1024
"""Longest response that is read, in bytes."""


class PoolTransport(httpx.AsyncBaseTransport):
    """Sends httpx's requests over a server's pool, so that both see the same world."""

    def __init__(self, pool: Pool, *, connect_timeout: float, silence: float) -> None:
        self._pool = pool
        self._connect_timeout = connect_timeout
        self._silence = silence

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        lines = [b"%b %b HTTP/1.1\r\n" % (request.method.encode(), request.url.raw_path)]
        lines += [b"%b: %b\r\n" % pair for pair in request.headers.raw]
        response = await fetch(
            self._pool,
            b"".join([*lines, b"\r\n", await request.aread()]),
            limit=RESPONSE_LIMIT,
            connect_timeout=self._connect_timeout,
            silence=self._silence,
        )
        return httpx.Response(response.status, headers=response.headers, content=response.body)


class Client:
    """Asks one server by httpx; a response is its status and body, decoded.

    Raises:
        UpstreamError: there is no response, or it cannot be read.
    """

    def __init__(self, pool: Pool, *, connect_timeout: float, silence: float) -> None:
        self._client = httpx.AsyncClient(
            transport=PoolTransport(pool, connect_timeout=connect_timeout, silence=silence),
            base_url=pool.base.decode(),
            headers={"user-agent": "llama-balancer", **pool.headers},
        )

    async def get(self, path: str) -> tuple[int, bytes]:
        return await self.send("GET", path)

    async def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> tuple[int, bytes]:
        """Send a request that may be repeated."""
        try:
            response = await self._client.request(method, path, content=body, headers=headers)
        except httpx.DecodingError:
            raise Garbled("its response is not encoded as it says") from None
        return response.status_code, response.content
