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
from collections.abc import Awaitable, Callable, Collection, Mapping
from time import monotonic
from typing import Any, Final, Literal

import structlog
from redis.exceptions import RedisError

from app.keys.allowance import Allowance
from app.routing.balancer import Balancer
from app.routing.ledger import Lease, Ledger
from app.store.allowances import REPORT, SharedAllowances
from app.store.batcher import Batcher
from app.store.client import client
from app.store.clock import StoreClock
from app.store.courtesy import courtesy
from app.store.knowledge import BLOCK, SharedKnowledge
from app.store.machines import SharedMachines
from app.store.probes import SharedProbes
from app.store.scripts import ENTER, LEAVE, RENEW

TTL: Final = 10_000
"""Milliseconds after which the leases of a replica expire that says nothing."""

BEAT: Final = 2.0
"""Seconds between two heartbeats."""

DOUBT: Final = 2500
"""Milliseconds after which a store that had forgotten all leases knows those of each replica."""

AT_ONCE: Final = 16
"""Requests that ask the store at once, each over a connection: handshakes take longer than they."""

PATIENCE: Final = 0.1
"""Seconds that a request waits for the store at the most."""

NEWS: Final = 0.005
"""Seconds within which replicas have mostly heard of each other's prompts."""

CONTENDED: Final = 0.05
"""Seconds for which a place that has become free at a full server is one that others want, too."""

FAILURES: Final = 3
"""Failures in a row after which nobody asks the store any more, but for the heartbeat."""

Away = Literal["share", "full", "reject"]
"""What a replica goes by while the store is away: its share of a limit, all of it, or nothing."""

Call = Callable[..., Awaitable[Any]]

log = structlog.get_logger(__name__)


class SharedPlaces:
    """Has all replicas keep each server's limit together.

    What a request needs of the store is one round trip, and never more than `PATIENCE`. While the
    store is away, each replica goes by what `away` says. `allowances` gives those of API keys that
    have limits, by the keys' names; `waiting` counts the requests in our queue by their models;
    `failed` is told of a round that failed for a fault of ours.
    """

    def __init__(
        self,
        url: str,
        prefix: str,
        balancer: Balancer,
        *,
        away: Away = "share",
        allowances: Callable[[], Mapping[str, Allowance]] = dict,
        waiting: Callable[[], Mapping[str, int]] = dict,
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
        self._few = asyncio.Semaphore(AT_ONCE)
        self._away_since = 0.0
        self._known: Collection[str] = ()
        """The replicas that there are."""
        self._is_new = True
        """Whether the store has not heard of us yet."""
        self._policy = away
        self._failed = failed
        self._waiting = waiting
        self._balancer = balancer
        self._failures = 0
        self._replica = secrets.token_hex(6) + "/"
        self._leases = 0
        self._held: dict[str, dict[str, bool]] = {}
        """Our leases, by server and by their names there: whether they have their places."""
        self._freed: dict[str, float] = {}
        """When a place has become free at a server that was full."""
        self._left = Batcher[tuple[str, str, str]](self._give_back, failed)
        """Leases that were released: their servers, their names there, and what others are told."""
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
        self.machines = SharedMachines(self._replica, f"{tag}:machines", self._client, failed)
        balancer.witness = self.knowledge
        self._allowances = SharedAllowances(
            self._client.register_script(REPORT), [f"{tag}:keys", self._members], allowances
        )

    async def enter(self, lease: Lease, waited: float = 0.0) -> bool:
        """Take a place for a lease, after so many seconds in the queue; whether there was one."""
        if lease.reason == "no_place" or lease.server not in self._balancer.fleet.servers:
            return True  # it makes no work, or the server was removed in this very moment
        backend = self._balancer.backend(lease.server)
        ledger = backend.ledger
        responds = self._failures < FAILURES
        contended = monotonic() - self._freed.get(lease.server, 0.0) < CONTENDED
        if responds and (waited or contended):
            since_turn = monotonic() - self.knowledge.last_turn(lease.client)
            waited = min(waited, since_turn)
            await asyncio.sleep(courtesy(lease, waited, backend.service_seconds or 0.0))
            if not lease.open:
                return False  # its client has left meanwhile
        taken = ledger.limit is None or await self._take(lease, ledger, ledger.limit)
        if taken and lease.open:
            self.knowledge.placed(lease)
        return taken

    async def _take(self, lease: Lease, ledger: Ledger, limit: int) -> bool:
        self._leases += 1
        slot = "" if lease.slot is None else f"#{lease.slot}"
        lease.shared = f"{self._replica}{self._leases}{slot}"
        held = self._held.setdefault(lease.server, {})
        overflows = self._balancer.overflows and ledger.total + ledger.elsewhere > limit
        alone = overflows or self._failures >= FAILURES
        held[lease.shared] = alone
        lease.when_released(self._left_by)
        taken = overflows or self._policy != "reject"
        if not alone:
            taken = await self._ask_for(lease, limit)
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
        return {
            "replicas": self.replicas,
            "away": self.away,
            "goes_by": self._policy,
            "waiting_elsewhere": self.knowledge.waiting,
        }

    async def _ask_for(self, lease: Lease, limit: int) -> bool:
        """Ask the store for a place; return whether there is one, or what we go by without it."""
        keys, begun = [self._key + lease.server, self._begun], monotonic()
        args = [self._replica, lease.shared, limit, TTL, DOUBT]
        try:
            async with asyncio.timeout(PATIENCE), self._few:
                taken, others, *slots = await self._enter(keys=keys, args=args)
        except (RedisError, OSError, TimeoutError) as error:
            self._note_failure(error)
            return self._has_room(lease.server)
        self._failures = 0
        self.timed(monotonic() - begun)
        if taken < 0:
            self._go_alone()
            return self._has_room(lease.server)
        if not taken and others < limit:
            await asyncio.sleep(NEWS)  # somebody has the slot, and we are about to hear who
        if not taken:
            self._balancer.others_at(lease.server, int(others))
            self._balancer.backend(lease.server).others_have(map(int, slots))
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
        self._note_freed(lease.server, 1)
        told = f"{self._replica}{lease.told}/{int(lease.worked)}/{lease.server}"
        self._left.put((lease.server, lease.shared, told))

    async def open(self) -> None:
        """Learn what there is to know before the first request, if the store responds."""
        await self.beat()
        try:
            async with asyncio.timeout(BEAT):
                if not self.away:
                    await asyncio.gather(*(self._client.ping() for _ in range(AT_ONCE)))
                    await self.knowledge.begin(self._known)
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
                self.knowledge.tell_waiting(self._waiting())
                await self._allowances.beat(self._replica, TTL, monotonic())
        except (RedisError, OSError, TimeoutError) as error:
            self._note_failure(error)
            return
        self._failures = 0
        self._is_new = False
        self._known, self.replicas = replicas, len(replicas)
        self.knowledge.keep(replicas)
        self.probes.keep(replicas)
        if self.away:
            self.away = False
            log.info("store.back", replicas=self.replicas)
        for backend, others in zip(backends, counts, strict=True):
            self._balancer.others_at(backend.server.name, int(others))

    async def close(self) -> None:
        """Give all places back that others might wait for, and leave."""
        await self._left.finish()
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

    async def _give_back(self, left: list[tuple[str, str, str]]) -> None:
        """Give back the places of leases that were released lately."""
        if self._failures >= FAILURES:
            return  # with the next heartbeat that it hears, the store forgets them
        keys = [self._key + server for server, *_ in left]
        words = [word for _, *pair in left for word in pair]
        try:
            async with asyncio.timeout(PATIENCE * 5):
                await self._leave(keys=keys, args=[self._channel, *words])
        except (RedisError, OSError, TimeoutError) as error:
            self._note_failure(error)

    async def _listen(self) -> None:
        """Take in, until cancelled, which places others give back, and what their probes saw."""
        while True:
            try:
                async with self._client.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(
                        self._channel, self.probes.channel, self.machines.channel
                    )
                    while True:
                        message = await channel.get_message(timeout=None)
                        if message is not None:
                            self._on_message(message["channel"], message["data"])
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(BEAT)

    def _note_freed(self, server: str, freed: int) -> None:
        """Note that a place is free at a server that was full, with so many of ours more."""
        if server in self._balancer.fleet.servers:
            ledger = self._balancer.backend(server).ledger
            if ledger.limit is not None and ledger.total + freed + ledger.elsewhere >= ledger.limit:
                self._freed[server] = monotonic()

    def _on_message(self, channel: str, message: str) -> None:
        try:
            if channel == self.probes.channel:
                self.probes.hear(message)
            elif channel == self.machines.channel:
                self.machines.hear(message)
            else:
                self._on_freed(*message.split("/", 3))
        except Exception:  # noqa: BLE001 - of another version, maybe: logged and counted
            self._failed("store")

    def _on_freed(self, replica: str, prompt: str, worked: str, server: str) -> None:
        """Take in that a replica has freed a place, and the slot of its prompt."""
        if f"{replica}/" == self._replica:
            return  # our own have been counted
        self.knowledge.end(f"{replica}/", int(prompt), worked=worked == "1")
        if not self.away and server in self._balancer.fleet.servers:
            self._note_freed(server, 0)
            ledger = self._balancer.backend(server).ledger
            # A refusal may have told of it already.
            self._balancer.others_at(server, max(ledger.others - 1, ledger.known_others))
