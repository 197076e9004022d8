"""Each server is probed by one replica of the balancer, which tells the others what it has seen.

Whose turn it is follows from the replicas that have a lease on being one. Of bad news only a doubt
is passed on: who hears nothing good looks for itself, so that a server is down for nobody who can
reach it. All goes over a channel of Valkey, which reaches those who listen and keeps nothing.

https://valkey.io/topics/pubsub/
"""

from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from time import monotonic
from typing import Any, Final
from zlib import crc32

import orjson
from redis.asyncio import Redis

from app.routing.balancer import Balancer
from app.routing.health_window import Sample
from app.routing.kind import Kind
from app.routing.observations import HealthSeen, ModelsSeen, Observation, ProbeFailed, SelfReport
from app.store.batcher import Batcher
from app.store.clock import StoreClock

GoodNews = HealthSeen | ModelsSeen | SelfReport

DOUBT: Final = "doubt"
"""Says that a server did not respond as it should: everybody is to look."""

MARGIN: Final = 0.1
"""Seconds by which the clocks of two replicas may differ."""


class SharedProbes:
    """Takes in what our probes and those of other replicas have seen."""

    def __init__(
        self,
        balancer: Balancer,
        replica: str,
        channel: str,
        store: Redis,
        clock: StoreClock,
        failed: Callable[[str], None],
    ) -> None:
        self.channel = channel
        self._balancer = balancer
        self._replica = replica
        self._store = store
        self._clock = clock
        self._failed = failed
        self._replicas: Collection[str] = ()
        self._heard: dict[tuple[str, str], float] = {}
        self._batcher = Batcher[dict[str, Any]](self._publish, failed)

    def keep(self, replicas: Collection[str]) -> None:
        """Take in which replicas there are."""
        self._replicas = replicas

    def observe(self, observation: Observation) -> None:
        """Take in what we have seen, and tell the others if it is good."""
        self._balancer.observe(observation)
        if len(self._replicas) < 2:
            return
        if isinstance(observation, ProbeFailed):
            self._batcher.put({"what": DOUBT, "server": observation.server})
        elif isinstance(observation, GoodNews):
            told = asdict(observation) | {"what": type(observation).__name__}
            if isinstance(observation, HealthSeen):
                told["sample"]["at"] = self._clock.there(observation.sample.at)
            elif isinstance(observation, SelfReport):
                told["asked_at"] = self._clock.there(observation.asked_at)
            self._batcher.put(told)

    def has(self, server: str, what: type[GoodNews], seconds: float) -> bool:
        """Whether the replica whose turn it is has seen a server so lately."""
        if max(self._replicas, key=lambda x: _rank(x, server), default="") == self._replica:
            return False
        return monotonic() - self._heard.get((server, what.__name__), 0.0) < seconds

    def hear(self, message: str) -> None:
        """Take in what another replica has seen, unless we have seen the server fail."""
        told = orjson.loads(message)
        if told["by"] == self._replica:
            return
        for seen in told["seen"]:
            server = seen["server"]
            if server not in self._balancer.fleet.servers:
                continue
            if seen["what"] == DOUBT:
                self._heard = {k: at for k, at in self._heard.items() if k[0] != server}
                continue
            health = self._balancer.backend(server).health
            if health.failing or not health.healthy:
                continue
            self._heard[server, seen["what"]] = monotonic()
            self._balancer.observe(self._read(seen.pop("what"), seen))

    def _read(self, what: str, seen: dict[str, Any]) -> GoodNews:
        match what:
            case "HealthSeen":
                sample = Sample(**seen["sample"])
                return HealthSeen(seen["server"], replace(sample, at=self._clock.here(sample.at)))
            case "ModelsSeen":
                return ModelsSeen(**seen)
            case _:
                sets = ("busy_slots", "loaded", "starting", "asleep")
                found: dict[str, Any] = {name: _set(seen[name]) for name in sets}
                found["kind"] = Kind(**seen["kind"])
                found["asked_at"] = self._clock.here(seen["asked_at"]) - MARGIN
                return SelfReport(**seen | found)

    async def _publish(self, seen: list[dict[str, Any]]) -> None:
        message = orjson.dumps({"by": self._replica, "seen": seen}, default=list)
        await self._store.publish(self.channel, message)


def _set(told: list[Any] | None) -> frozenset[Any] | None:
    return None if told is None else frozenset(told)


def _rank(replica: str, server: str) -> int:
    return crc32(f"{replica} {server}".encode())
