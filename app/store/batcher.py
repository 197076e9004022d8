"""What is to be sent to the store in the background, in its order, many at once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from redis.exceptions import RedisError

MOST_WAITING: Final = 1000
"""What waits to be sent; while the store is away, more is lost."""

AT_ONCE: Final = 100
"""How much is sent in one round trip."""

Item = TypeVar("Item")


class Batcher(Generic[Item]):
    """Sends what is put into it, without making anybody wait.

    What the store does not take is lost: the heartbeat says that it is away. `failed` is told of
    a fault of ours.
    """

    def __init__(
        self, send: Callable[[list[Item]], Awaitable[object]], failed: Callable[[str], None]
    ) -> None:
        self._send = send
        self._failed = failed
        self._waiting: list[Item] = []
        self._task: asyncio.Task[None] | None = None

    def put(self, item: Item) -> None:
        """Have something sent."""
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append(item)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._send_all())

    async def finish(self) -> None:
        """Wait until what was put into it is sent, or lost."""
        if self._task is not None:
            await self._task

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                items, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                await self._send(items)
        except (RedisError, OSError, TimeoutError):
            self._waiting.clear()
        except Exception:  # noqa: BLE001 - logged and counted
            self._failed("store")
        finally:
            self._task = None
