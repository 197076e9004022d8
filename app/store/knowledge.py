"""What one replica of the balancer does and learns, told to the others.

It is a stream in Valkey of which the newest `MOST` events are kept: where prompts were placed,
where clients went, which servers are left alone or drained, how long models take to load. Each
replica adds to it in the background, follows what the others add, and reads what there is as it
starts. So a conversation finds its server and slot, whichever replica it reaches; where it is
quicker than the news, nothing but time is lost. Prompts are told by their hashes, so all replicas
take the same secret from the store.

https://valkey.io/topics/streams-intro/
"""

import asyncio
import math
import secrets
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from time import monotonic
from typing import Any, Final, TypeVar

import orjson
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.routing.balancer import Balancer
from app.routing.ledger import Fault, Lease
from app.routing.pins import Pin
from app.routing.prompt import Prompt
from app.routing.prompt_cache import Occupancy
from app.routing.text_hash import SECRET, hash_text
from app.routing.told_prompts import ToldPrompt, follow
from app.store.batcher import Batcher
from app.store.clock import StoreClock

MOST: Final = 4096
"""Events that the store keeps, more or less: each has 4 KB at the most."""

AT_ONCE: Final = 100
"""Events that are read in one round trip."""

BLOCK: Final = 2000
"""Milliseconds for which the store waits for an event before it says that there is none."""

AGAIN: Final = 30.0
"""Seconds after which a client is told of again that is still where it was."""

MOST_CLIENTS: Final = 10_000
"""Clients of whom it is remembered where they were told to be, and when they had a turn."""

REST: Final = 1.0
"""Seconds until a store is asked again that has failed."""

Event = dict[str, Any]
Key = TypeVar("Key")
Value = TypeVar("Value")


class SharedKnowledge:
    """Tells other replicas what this one does and learns, and takes in what they tell.

    It is the balancer's `Witness`. `reading` and `telling` are connections to the store: the first
    waits there for events. `failed` is told of a fault of ours.
    """

    def __init__(
        self,
        balancer: Balancer,
        replica: str,
        tag: str,
        *,
        telling: Redis,
        reading: Redis,
        clock: StoreClock,
        failed: Callable[[str], None],
    ) -> None:
        self.told = 0
        """How many events we have told the others of."""
        self.heard = 0
        """How many we have heard of."""
        self._balancer = balancer
        self._replica = replica
        self._stream, self._secret = f"{tag}:knowledge", f"{tag}:secret"
        self._drained, self._added = f"{tag}:drained", f"{tag}:added"
        self.heard_of_server: Callable[[str, Mapping[str, Any] | None], None] = lambda *_: None
        """Told of a server that an administrator has added elsewhere; None: removed."""
        self._telling, self._reading = telling, reading
        self._failed = failed
        self._read = "0"
        """The last event that was read."""
        self._clock = clock
        self._batcher = Batcher[Event](self._add, failed)
        self._prompts = 0
        self._occupancies: OrderedDict[tuple[str, int], tuple[str, str, Occupancy]] = OrderedDict()
        """Whose prompts are at work at which server and instance, by the replica and its number."""
        self._pins: OrderedDict[tuple[str, str, str], tuple[str, str, float]] = OrderedDict()
        self._waiting: dict[str, dict[str, int]] = {}
        """How many requests wait at other replicas, for which models."""
        self._told_waiting: dict[str, int] = {}
        self._turns: OrderedDict[int, float] = OrderedDict()
        """When clients had their last turns, by the hashes of their names."""
        self._loads: dict[tuple[str, str], float] = {}
        self._hearers: dict[str, Callable[[str, Mapping[str, Any], float], None]] = {
            "prompt": self._hear_of_prompt,
            "ended": self._hear_of_end,
            "pin": self._hear_of_pin,
            "ejected": self._hear_of_ejection,
            "returned": self._hear_of_return,
            "drained": self._hear_of_drain,
            "added": self._hear_of_added,
            "load": self._hear_of_load,
            "waiting": self._hear_of_waiting,
        }
        """Who takes in an event of a kind: by whom it is, the event, and when it was."""

    # What we do and learn

    def placed(self, lease: Lease) -> None:
        """Tell where a prompt goes, and once its request has ended."""
        who = hash_text(lease.client)
        self._note_turn(who, monotonic())
        if lease.occupancy is None:
            return
        prompt, placement = lease.occupancy.prompt, lease.occupancy.placement
        self._prompts += 1
        lease.told = number = self._prompts
        slot, continued = placement.slot, placement.continued
        summary = prompt.summary()
        if continued:
            summary["prefixes"].append((continued, prompt.prefixes[continued]))
        self._tell(
            "prompt",
            number=number,
            who=who,
            server=lease.server,
            instance=lease.instance,
            slot=None if slot is None else slot.number,
            named=lease.slot is not None,
            slots=len(placement.prompt_cache.slots),
            continued=continued,
            prompt=summary,
        )
        lease.when_released(lambda ended: self._ended(ended, number))

    def last_turn(self, client: str) -> float:
        """Return when a client had a place last, at any replica, on our clock."""
        return self._turns.get(hash_text(client), -math.inf)

    def _note_turn(self, who: int, at: float) -> None:
        _remember(self._turns, who, at)

    def _ended(self, lease: Lease, number: int) -> None:
        """Tell that a prompt's request has ended, and what is known of its server by now."""
        learnt: dict[str, object] = {}
        if lease.server in self._balancer.fleet.servers:
            learnt = self._balancer.learnt(lease.server, lease.instance, lease.model)
        self._tell("ended", number=number, worked=lease.worked, server=lease.server, **learnt)

    def pinned(self, client: str, model: str, pin: Pin) -> None:
        """Tell where a client is, if that is news."""
        key, now = (pin.address, client, model), monotonic()
        server, instance, told = self._pins.get(key, ("", "", 0.0))
        if (server, instance) == (pin.server, pin.instance) and now - told < AGAIN:
            return
        _remember(self._pins, key, (pin.server, pin.instance, now))
        self._tell("pin", client=[*key], server=pin.server, instance=pin.instance)

    def ejected(self, server: str, fault: Fault, until: float) -> None:
        """Tell that a server is left alone for a while."""
        self._tell("ejected", server=server, fault=fault, until=self._clock.there(until))

    def returned(self, server: str) -> None:
        """Tell that a server works again."""
        self._tell("returned", server=server)

    def drained(self, server: str, *, on: bool) -> None:
        """Tell what an administrator wants of a server."""
        self._tell("drained", server=server, on=on)

    @property
    def waiting(self) -> int:
        """How many requests wait at other replicas, as they told with their last heartbeats."""
        return sum(sum(models.values()) for models in self._waiting.values())

    def waiting_for(self, model: str) -> int:
        """How many of them wait for a model."""
        return sum(models.get(model, 0) for models in self._waiting.values())

    def tell_waiting(self, models: Mapping[str, int]) -> None:
        """Tell how many requests wait here for which models, where that has changed."""
        if models != self._told_waiting:
            self._told_waiting = dict(models)
            self._tell("waiting", models=self._told_waiting)

    def added(self, server: str, body: Mapping[str, Any] | None) -> None:
        """Tell what an administrator has added, or removed."""
        self._tell("added", server=server, body=body)

    def _tell_loads(self) -> None:
        """Tell how long models take to load, where that was measured anew."""
        for backend in self._balancer.backends():
            for instance, seconds in backend.memory.load_times.items():
                key = backend.server.name, instance
                if self._loads.get(key) != seconds:
                    self._loads[key] = seconds
                    self._tell("load", server=key[0], instance=instance, seconds=seconds)

    def _tell(self, kind: str, **facts: object) -> None:
        self.told += 1
        self._batcher.put({"kind": kind, "at": self._clock.there(monotonic()), **facts})

    async def _add(self, events: list[Event]) -> None:
        async with self._telling.pipeline(transaction=False) as pipeline:
            for event in events:
                fields: dict[Any, Any] = {"by": self._replica, "event": orjson.dumps(event)}
                pipeline.xadd(self._stream, fields, maxlen=MOST, approximate=True)
                if event["kind"] == "drained":
                    keep = pipeline.sadd if event["on"] else pipeline.srem
                    keep(self._drained, event["server"])
                elif event["kind"] == "added" and event["body"] is not None:
                    pipeline.hset(self._added, event["server"], orjson.dumps(event["body"]))
                elif event["kind"] == "added":
                    pipeline.hdel(self._added, event["server"])
            await pipeline.execute()

    # What others do and learn

    async def begin(self, replicas: Collection[str]) -> None:
        """Take in what there is to know; `replicas` are there now."""
        added: Any = await self._telling.hgetall(self._added)
        for server, body in added.items():
            self.heard_of_server(server, orjson.loads(body))
        drained: Any = await self._telling.smembers(self._drained)
        for server in drained & self._balancer.fleet.servers.keys():
            self._balancer.hear_of_drain(server, on=True)
        while await self._take_in(None):
            pass
        self.keep(replicas)

    async def close(self) -> None:
        """End the connection that waits for events."""
        await self._reading.aclose()

    async def agree(self) -> None:
        """Take the secret that replicas have in common, or have them take ours."""
        ours = SECRET.key or secrets.token_bytes(32)
        async with self._telling.pipeline() as pipeline:
            pipeline.set(self._secret, ours.hex(), nx=True)
            pipeline.get(self._secret)
            _, found = await pipeline.execute()
        SECRET.key = bytes.fromhex(found)
        self._tell_loads()

    def keep(self, replicas: Collection[str]) -> None:
        """End what replicas were doing that are no more."""
        self._waiting = {who: n for who, n in self._waiting.items() if who in replicas}
        for key in [key for key in self._occupancies if key[0] not in replicas]:
            self.end(*key, worked=True)

    async def follow(self) -> None:
        """Take in what others tell, until cancelled."""
        while True:
            try:
                await self._take_in(BLOCK)
            except (RedisError, OSError, TimeoutError):
                await asyncio.sleep(REST)
            except Exception:  # noqa: BLE001 - logged and counted
                self._failed("store")
                await asyncio.sleep(REST)

    async def _take_in(self, block: int | None) -> bool:
        """Take in the next events; whether there may be more."""
        found: Any = await self._reading.xread(
            {self._stream: self._read}, count=AT_ONCE, block=block
        )
        entries = found[0][1] if found else []
        for number, fields in entries:
            self._read = number
            if fields["by"] != self._replica:
                self.heard += 1
                try:
                    self._hear(fields["by"], orjson.loads(fields["event"]))
                except Exception:  # noqa: BLE001 - of another version, maybe: logged and counted
                    self._failed("store")
        return len(entries) == AT_ONCE

    def _hear(self, replica: str, event: Mapping[str, Any]) -> None:
        hear = self._hearers.get(event["kind"])
        if hear is not None:  # else it is of a newer version
            hear(replica, event, self._clock.here(event["at"]))

    def _hear_of_waiting(self, replica: str, event: Mapping[str, Any], _: float) -> None:
        self._waiting[replica] = event["models"]

    def _hear_of_end(self, replica: str, event: Mapping[str, Any], _: float) -> None:
        self.end(replica, event["number"], worked=event["worked"])
        if "model" in event and event["server"] in self._balancer.fleet.servers:
            self._balancer.hear_of_learnt(event["server"], event)

    def _hear_of_pin(self, _: str, event: Mapping[str, Any], at: float) -> None:
        address, client, model = event["client"]
        self._balancer.hear_of_pin(
            client, model, Pin(event["server"], event["instance"], address, at)
        )

    def _hear_of_ejection(self, _: str, event: Mapping[str, Any], __: float) -> None:
        until = self._clock.here(event["until"])
        self._balancer.hear_of_ejection(event["server"], event["fault"], until)

    def _hear_of_return(self, _: str, event: Mapping[str, Any], __: float) -> None:
        self._balancer.hear_of_return(event["server"])

    def _hear_of_drain(self, _: str, event: Mapping[str, Any], __: float) -> None:
        if event["server"] in self._balancer.fleet.servers:
            self._balancer.hear_of_drain(event["server"], on=event["on"])

    def _hear_of_added(self, _: str, event: Mapping[str, Any], __: float) -> None:
        self.heard_of_server(event["server"], event["body"])

    def _hear_of_load(self, _: str, event: Mapping[str, Any], __: float) -> None:
        key, seconds = (event["server"], event["instance"]), event["seconds"]
        if key[0] in self._balancer.fleet.servers:
            self._loads[key] = seconds
            self._balancer.backend(key[0]).memory.hear_of_load(key[1], seconds)

    def end(self, replica: str, number: int, *, worked: bool) -> None:
        """Free the slot of a replica's prompt, if that is known and was not done before."""
        found = self._occupancies.pop((replica, number), None)
        if found is None:
            return
        server, instance, occupancy = found
        occupancy.end(monotonic(), worked=worked)
        if server in self._balancer.fleet.servers:
            self._balancer.backend(server).heard_of_end(instance)
        self._balancer.on_room()

    def _hear_of_prompt(self, replica: str, event: Mapping[str, Any], at: float) -> None:
        if event["server"] not in self._balancer.fleet.servers:
            return
        self._note_turn(event["who"], at)
        told = ToldPrompt(
            event["instance"],
            event["slot"],
            event["named"],
            event["slots"],
            event["continued"],
            Prompt.summed_up(event["prompt"]),
            at,
        )
        backend = self._balancer.backend(event["server"])
        occupancy = follow(backend, told)
        if occupancy is not None:
            backend.heard_of_use(told.instance, at)
            here = event["server"], told.instance, occupancy
            self._occupancies[replica, event["number"]] = here
            if len(self._occupancies) > MOST:
                self.end(*next(iter(self._occupancies)), worked=True)
            self._balancer.count_known_others(event["server"])


def _remember(clients: OrderedDict[Key, Value], key: Key, value: Value) -> None:
    """Remember something of a client, and forget who was heard of longest ago."""
    clients[key] = value
    clients.move_to_end(key)
    if len(clients) > MOST_CLIENTS:
        clients.popitem(last=False)
