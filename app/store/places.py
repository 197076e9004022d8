"""The places of all servers, kept together by all replicas of the balancer.

Each server's leases are a sorted set in Valkey: a member for each lease, scored with the time at
which it expires, by the store's own clock. A place is taken and given back by a script, which the
store runs as one step; each replica renews its leases with every heartbeat. So a replica that
dies gives its places back when they expire, and no more requests than `request_max` are at a
server, whichever replica has them.

`redis` is an extra: this file is imported where a store is asked for.

https://valkey.io/topics/lua-api/
https://valkey.io/commands/zadd/
"""

import asyncio
import math
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Any, Final, Literal

import structlog
from redis.exceptions import RedisError

from app.keys.allowance import Allowance
from app.routing.balancer import Balancer
from app.routing.ledger import Lease
from app.store.allowances import REPORT, SharedAllowances
from app.store.client import client
from app.store.clock import StoreClock
from app.store.knowledge import BLOCK, SharedKnowledge
from app.store.probes import SharedProbes

TTL: Final = 10_000
"""Milliseconds after which the leases of a replica expire that says nothing."""

BEAT: Final = 2.0
"""Seconds between two heartbeats."""

DOUBT: Final = 2500
"""Milliseconds after which a store that had forgotten all leases knows those of each replica."""

PATIENCE: Final = 0.1
"""Seconds that a request waits for the store at the most."""

FAILURES: Final = 3
"""Failures in a row after which nobody asks the store any more, but for the heartbeat."""

Away = Literal["share", "full", "reject"]
"""What a replica goes by while the store is away: its share of a limit, all of it, or nothing."""

Call = Callable[..., Awaitable[Any]]

ENTER: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local begun = redis.call('GET', KEYS[2])
if not begun or now - begun < tonumber(ARGV[5]) then return {-1, 0} end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) < tonumber(ARGV[3]) then
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[4]), ARGV[2])
  redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[4]) * 2)
  return {1, 0}
end
local others = 0
for _, lease in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if string.sub(lease, 1, #ARGV[1]) ~= ARGV[1] then others = others + 1 end
end
return {0, others}
"""
"""Takes a place (1), or returns how many others have (0).

A store that has forgotten everything cannot say (-1) until each replica has renewed its leases.
KEYS are the server's leases, and since when the store remembers; ARGV the replica, the lease, the
limit, for how many milliseconds, and for how many it cannot say.
"""

LEAVE: Final = """
for at = 1, #KEYS do
  redis.call('ZREM', KEYS[at], ARGV[2 * at])
  redis.call('PUBLISH', ARGV[1], ARGV[2 * at + 1])
end
return 0
"""
"""Gives places back and says so: ARGV are the channel, and for each key a lease and a message."""

RENEW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ttl = tonumber(ARGV[2])
redis.call('ZADD', KEYS[1], now + ttl, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('PEXPIRE', KEYS[1], ttl * 2)
redis.call('SET', KEYS[2], ARGV[3] == '1' and 0 or now, 'NX')
local counts = {now, redis.call('ZRANGE', KEYS[1], 0, -1)}
local at = 4
for key = 3, #KEYS do
  local mine = {}
  local asking = at + 2 + tonumber(ARGV[at])
  local last = asking - 1 + tonumber(ARGV[at + 1])
  for lease = at + 2, last do
    mine[ARGV[lease]] = true
    if lease < asking then redis.call('ZADD', KEYS[key], now + ttl, ARGV[lease]) end
  end
  at = last + 1
  redis.call('ZREMRANGEBYSCORE', KEYS[key], '-inf', now)
  counts[key] = 0
  for _, lease in ipairs(redis.call('ZRANGE', KEYS[key], 0, -1)) do
    if string.sub(lease, 1, #ARGV[1]) ~= ARGV[1] then
      counts[key] = counts[key] + 1
    elseif not mine[lease] then
      redis.call('ZREM', KEYS[key], lease)
    end
  end
  redis.call('PEXPIRE', KEYS[key], ttl * 2)
end
return counts
"""
"""Renews all leases of a replica, and drops those of its own that it does not know.

KEYS are the replicas, since when the store remembers, then each server's leases; ARGV the replica,
milliseconds, whether it is new, and for each server how many leases it has there, for how many it
is just asking, and they. Returns the time in milliseconds, the replicas, and how many leases the
others have at each server.
"""

log = structlog.get_logger(__name__)


class SharedPlaces:
    """Has all replicas keep each server's limit together.

    What a request needs of the store is one round trip, and never more than `PATIENCE`. While the
    store is away, each replica goes by what `away` says. `allowances` gives those of API keys that
    have limits, by the keys' names; `failed` is told of a round that failed for a fault of ours.
    """

    def __init__(
        self,
        url: str,
        prefix: str,
        balancer: Balancer,
        *,
        away: Away = "share",
        allowances: Callable[[], Mapping[str, Allowance]] = dict,
        failed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.replicas = 1
        """How many there were when the store responded last."""
        self.away = False
        """Whether the store is away."""
        self.failures = 0
        """How often it failed."""
        self.timed: Callable[[float], None] = lambda _: None
        """Told how many seconds it took to take a place."""
        self._away_since = 0.0
        self._is_new = True
        """Whether the store has not heard of us yet."""
        self._policy = away
        self._failed = failed
        self._balancer = balancer
        self._failures = 0
        self._replica = secrets.token_hex(6) + "/"
        self._leases = 0
        self._held: dict[str, dict[str, bool]] = {}
        """Our leases, by server and by their names there: whether they have their places."""
        self._left: list[tuple[str, str]] = []
        self._leaving: asyncio.Task[None] | None = None
        tag = f"{{{prefix}}}"  # one slot of a cluster holds all, as a script must have it
        self._members, self._channel = f"{tag}:replicas", f"{tag}:freed"
        self._begun = f"{tag}:begun"
        self._key = f"{tag}:leases:"
        self._client = client(url, PATIENCE)
        self._enter: Call = self._client.register_script(ENTER)
        self._leave: Call = self._client.register_script(LEAVE)
        self._renew: Call = self._client.register_script(RENEW)
        self._clock = StoreClock()
        self.knowledge = SharedKnowledge(
            balancer,
            self._replica,
            tag,
            telling=self._client,
            reading=client(url, BLOCK / 1000 + BEAT),
            clock=self._clock,
            failed=failed,
        )
        self.probes = SharedProbes(
            balancer, self._replica, f"{tag}:probes", self._client, self._clock, failed
        )
        balancer.witness = self.knowledge
        self._allowances = SharedAllowances(
            self._client.register_script(REPORT), [f"{tag}:keys", self._members], allowances
        )

    async def enter(self, lease: Lease) -> bool:
        """Take a place for a lease; return whether there was one."""
        if lease.reason == "no_place" or lease.server not in self._balancer.fleet.servers:
            return True  # it makes no work, or the server was removed in this very moment
        ledger = self._balancer.backend(lease.server).ledger
        if ledger.limit is None:
            return True
        self._leases += 1
        lease.shared = f"{self._replica}{self._leases}"
        held = self._held.setdefault(lease.server, {})
        # Where it is known to be one too many, that is meant: BALANCER_OVERFLOW.
        overflows = ledger.total + ledger.elsewhere > ledger.limit
        alone = overflows or self._failures >= FAILURES
        held[lease.shared] = alone
        lease.when_released(self._left_by)
        taken = overflows or self._policy != "reject"
        if not alone:
            taken = await self._ask_for(lease, ledger.limit)
        if not taken:
            held.pop(lease.shared, None)
            lease.shared = ""
        elif lease.shared in held:  # it was not released meanwhile
            held[lease.shared] = True
        return taken

    @property
    def told(self) -> int:
        """How many events we have told the others of."""
        return self.knowledge.told

    @property
    def heard(self) -> int:
        """How many we have heard of."""
        return self.knowledge.heard

    def snapshot(self) -> dict[str, object]:
        """Return how many replicas there are, and whether the store is away."""
        return {"replicas": self.replicas, "away": self.away, "goes_by": self._policy}

    async def _ask_for(self, lease: Lease, limit: int) -> bool:
        """Ask the store for a place; return whether there is one, or what we go by without it."""
        keys, begun = [self._key + lease.server, self._begun], monotonic()
        args = [self._replica, lease.shared, limit, TTL, DOUBT]
        try:
            async with asyncio.timeout(PATIENCE):
                taken, others = await self._enter(keys=keys, args=args)
        except (RedisError, OSError, TimeoutError) as error:
            self._note_failure(error)
            return self._has_room(lease.server)
        self._failures = 0
        self.timed(monotonic() - begun)
        if taken < 0:
            self._go_alone()
            return self._has_room(lease.server)
        if not taken:
            self._balancer.others_at(lease.server, int(others))
        return bool(taken)

    def _has_room(self, server: str) -> bool:
        """Whether what we have at a server, this request included, is no more than our share."""
        ledger = self._balancer.backend(server).ledger
        return ledger.share is None or ledger.total <= ledger.share

    def _left_by(self, lease: Lease) -> None:
        """Give a lease's place back, in the background."""
        if not lease.shared:
            return  # it had none
        self._held.get(lease.server, {}).pop(lease.shared, None)
        self._left.append((lease.server, lease.shared))
        if self._leaving is None:
            self._leaving = asyncio.get_running_loop().create_task(self._give_back())

    async def open(self) -> None:
        """Learn what there is to know before the first request, if the store responds."""
        await self.beat()
        try:
            async with asyncio.timeout(BEAT):
                if not self.away:
                    await self.knowledge.begin()
        except (RedisError, OSError, TimeoutError) as error:
            self._note_failure(error)

    async def watch(self) -> None:
        """Renew the leases, and take in those of others, until cancelled."""
        await self._greet()
        listening = [
            asyncio.create_task(work, name=name)
            for name, work in {
                "freed places": self._listen(),
                "knowledge of others": self.knowledge.follow(),
            }.items()
        ]
        try:
            while True:
                try:
                    await self.beat()
                except Exception:  # noqa: BLE001 - logged and counted
                    self._failed("store")
                await asyncio.sleep(BEAT * random.uniform(0.8, 1.0))  # noqa: S311 - no secret
        finally:
            for task in listening:
                task.cancel()

    async def beat(self) -> None:
        """Renew all leases at once, and take in how many there are."""
        backends = [b for b in self._balancer.backends() if b.ledger.limit is not None]
        args: list[str | int] = [self._replica, TTL, int(self._is_new)]
        for backend in backends:
            held = self._held.get(backend.server.name, {})
            ours = [name for name, has_place in held.items() if has_place]
            asking = [name for name, has_place in held.items() if not has_place]
            args += [len(ours), len(asking), *ours, *asking]
        keys = [
            self._members,
            self._begun,
            *(self._key + backend.server.name for backend in backends),
        ]
        try:
            async with asyncio.timeout(BEAT):
                asked = monotonic()
                now, replicas, *counts = await self._renew(keys=keys, args=args)
                self._clock.set(int(now) / 1000, asked)
                await self.knowledge.agree()
                await self._allowances.beat(self._replica, TTL, monotonic())
        except (RedisError, OSError, TimeoutError) as error:
            self._note_failure(error)
            return
        self._failures = 0
        self._is_new = False
        self.replicas = len(replicas)
        self.knowledge.keep(replicas)
        self.probes.keep(replicas)
        if self.away:
            self.away = False
            log.info("store.back", replicas=self.replicas)
        for backend, others in zip(backends, counts, strict=True):
            self._balancer.others_at(backend.server.name, int(others))

    async def close(self) -> None:
        """Give all places back that others might wait for, and leave."""
        if self._leaving is not None:
            await self._leaving
        try:
            async with asyncio.timeout(PATIENCE * 5):
                await self._client.zrem(self._members, self._replica)
        except (RedisError, OSError, TimeoutError):
            log.debug("store.away")
        await self._client.aclose()
        await self.knowledge.close()

    def _note_failure(self, error: Exception) -> None:
        self._failures += 1
        self.failures += 1
        if not self.away:
            self.away = True
            self._away_since = monotonic()
            what = str(error) or type(error).__name__
            log.warning("store.away", error=what, goes_by=self._policy)
        self._go_alone()

    def _go_alone(self) -> None:
        """Keep to limits of our own, while nobody knows what other replicas do.

        For a heartbeat what they had counts as well.
        """
        late = self.away and monotonic() - self._away_since >= BEAT
        self._allowances.go_alone(1 if self._policy == "full" else self.replicas)
        for backend in self._balancer.backends():
            limit, share = backend.ledger.limit, None
            if limit is not None and self._policy != "full":
                share = math.ceil(limit / self.replicas) if self._policy == "share" else 0
            others = 0 if late else backend.ledger.others
            self._balancer.others_at(backend.server.name, others, share)

    async def _greet(self) -> None:
        """Look whether the store may throw away what it is told."""
        try:
            async with asyncio.timeout(BEAT):
                told = await self._client.config_get("maxmemory-policy")
        except (RedisError, OSError, TimeoutError):
            return  # the heartbeat tells that it is away; some stores do not answer this
        policy = told.get("maxmemory-policy", "noeviction")
        if policy != "noeviction":
            log.warning("store.evicts", policy=policy, advice="set maxmemory-policy noeviction")

    async def _give_back(self) -> None:
        """Give back the places of leases that were released lately."""
        try:
            while self._left:
                left, self._left = self._left, []
                if self._failures >= FAILURES:
                    continue  # with the next heartbeat that it hears, the store forgets them
                keys = [self._key + server for server, _ in left]
                words = [word for server, x in left for word in (x, self._replica + server)]
                try:
                    async with asyncio.timeout(PATIENCE * 5):
                        await self._leave(keys=keys, args=[self._channel, *words])
                except (RedisError, OSError, TimeoutError) as error:
                    self._note_failure(error)
        finally:
            self._leaving = None

    async def _listen(self) -> None:
        """Take in, until cancelled, which places others give back, and what their probes saw."""
        while True:
            try:
                async with self._client.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(self._channel, self.probes.channel)
                    while True:
                        message = await channel.get_message(timeout=None)
                        if message is not None:
                            self._on_message(message["channel"], message["data"])
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(BEAT)

    def _on_message(self, channel: str, message: str) -> None:
        try:
            if channel == self.probes.channel:
                self.probes.hear(message)
            else:
                self._on_freed(*message.split("/", 1))
        except Exception:  # noqa: BLE001 - of another version, maybe: logged and counted
            self._failed("store")

    def _on_freed(self, replica: str, server: str) -> None:
        """Take in that a replica has freed a place: our own have been counted."""
        ours = f"{replica}/" == self._replica
        if not (ours or self.away) and server in self._balancer.fleet.servers:
            others = self._balancer.backend(server).ledger.others
            self._balancer.others_at(server, others - 1)
