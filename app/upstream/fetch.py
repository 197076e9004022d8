"""A request of our own to a server, over the same connections as our clients' requests."""

import asyncio

from app.upstream.connection import Connection, Head, Headers
from app.upstream.errors import Garbled, Stale, TimedOut, Unheard
from app.upstream.pool import Pool


class TooLong(Garbled):
    """A response is longer than we take: our limit, not a fault of the server."""


class Response:
    """A response, read as a whole (an `upstream.connection.Receiver`)."""

    def __init__(self, limit: int, silence: float) -> None:
        self.status = 0
        self.headers: Headers = []
        self.body = b""
        self._pieces: list[bytes] = []
        self._size = 0
        self._limit = limit
        self._silence = silence
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._timer = self._loop.call_later(silence, self._on_silence)

    def on_response(self, head: Head | None, body: bytes, *, complete: bool) -> None:
        if self._ended.done():
            return
        if head is not None:
            self.status, self.headers = head.status, head.headers
        self._pieces.append(body)
        self._size += len(body)
        if self._size > self._limit:
            self.on_failed(TooLong(f"its response is longer than {self._limit} bytes"))
        elif complete:
            self.body = b"".join(self._pieces)
            self._ended.set_result(None)
        else:
            self._timer.cancel()
            self._timer = self._loop.call_later(self._silence, self._on_silence)

    def on_failed(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)

    def on_drained(self) -> None: ...

    async def end(self) -> None:
        """Wait for the end, as long as no pause is longer than `silence` seconds.

        Raises:
            UpstreamError: there is no response, or not all of it.
        """
        try:
            await self._ended
        finally:
            self._timer.cancel()

    def _on_silence(self) -> None:
        self.on_failed(TimedOut(f"silent for {self._silence:g} s"))


async def fetch(
    pool: Pool, request: bytes, *, limit: int, connect_timeout: float, silence: float
) -> Response:
    """Send a request that may be repeated, and read the response.

    At most `limit` bytes of a body are read; both times are in seconds.

    Raises:
        UpstreamError: there is no response, or not all of it, or it is too long.
    """
    kept = pool.kept(repeatable=True)
    if kept is not None:
        try:
            return await _over(kept, request, limit, silence)
        except (Stale, Unheard):
            pass  # the server had closed it, or was about to
    return await _over(await pool.dial(connect_timeout), request, limit, silence)


async def _over(connection: Connection, request: bytes, limit: int, silence: float) -> Response:
    response = Response(limit, silence)
    try:
        connection.request(request, response)
        await response.end()
    except BaseException:
        connection.abort()
        raise
    return response
