"""Machines that join one replica of the balancer, and leave it, are passed on to the others.

An agent says every few seconds that it is there, to whichever replica it reaches. All goes over a
channel of Valkey, as what is missed is said again.
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from redis.asyncio import Redis

from app.store.batcher import Batcher

Said = dict[str, Any]


class SharedMachines:
    """Passes on what agents say; `heard` is told of what they said to other replicas.

    That is the machine's name, and the body that it sent and the address it was seen at, or None
    where it leaves.
    """

    def __init__(
        self, replica: str, channel: str, store: Redis, failed: Callable[[str], None]
    ) -> None:
        self.channel = channel
        self.heard: Callable[[str, Mapping[str, Any] | None, str], None] = lambda *_: None
        self._replica = replica
        self._store = store
        self._batcher = Batcher[Said](self._publish, failed)

    def said(self, machine: str, body: Mapping[str, Any] | None, address: str) -> None:
        """Pass on what an agent has said to us."""
        self._batcher.put({"machine": machine, "body": body, "address": address})

    def hear(self, message: str) -> None:
        """Take in what agents have said to another replica."""
        told = orjson.loads(message)
        if told["by"] != self._replica:
            for one in told["said"]:
                self.heard(one["machine"], one["body"], one["address"])

    async def _publish(self, said: list[Said]) -> None:
        message = orjson.dumps({"by": self._replica, "said": said})
        await self._store.publish(self.channel, message)
