"""The request queue: rules one by one, and invariants searched by Hypothesis."""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from app.keys.priority import PRIORITIES, Priority
from app.proxy.queue import PASSED_LIMIT, RequestQueue
from app.proxy.queued_request import QueuedRequest, QueueFull, QueueTimeout, Turn
from app.proxy.turns import LOOKAHEAD, OVERTAKING_LIMIT
from app.routing.balancer import Balancer, Refusal
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.ledger import Lease
from app.routing.observations import ModelsSeen
from tests.fakes.clock import Clock

pytestmark = pytest.mark.anyio

LIMITS = {"A": 1, "B": 2}
MODELS = {"m": ["A", "B"], "a": ["A"], "b": ["B"]}


class Asking:
    """One request: placed at once, or queued."""

    def __init__(
        self,
        house: "House",
        model: str,
        client: str,
        address: str,
        priority: Priority,
        **facts: Any,
    ) -> None:
        self.client = client
        self.turn: Turn | None = None
        self._queue = house.queue
        ask = Ask(model, (model,), client, "10.0.0.1")
        placed = house.balancer.place(ask)
        self._queued = QueuedRequest(
            client,
            model,
            lambda: house.balancer.place(ask),
            self._on_turn,
            held=lambda: client in house.cached and not house.full(model),
            address=address,
            priority=priority,
            **facts,
        )
        if placed is Refusal.FULL:
            self._queue.enter(self._queued)
        else:
            self.turn = placed

    def _on_turn(self, turn: Turn) -> None:
        assert self.turn is None, "its turn comes once"
        self.turn = turn

    @property
    def lease(self) -> Lease:
        assert isinstance(self.turn, Lease)
        return self.turn

    def leave(self) -> None:
        self._queue.leave(self._queued)


class House:
    """A balancer with a queue."""

    def __init__(self, *, capacity: int = 100, timeout: float = 60.0) -> None:
        servers = [Server(name, f"http://{name}", request_max=n) for name, n in LIMITS.items()]
        self.balancer = Balancer(Fleet.of(servers, MODELS), clock=Clock())
        self.cached: set[str] = set()
        """Clients whose prompt is in the cache of whatever place becomes free."""
        self.queue = RequestQueue(self.balancer, capacity=capacity, timeout=timeout)

    async def serve(self, lease: Lease, asking: list[Asking]) -> list[str]:
        """Release one place again and again; return who got it, in order."""
        order = []
        for _ in asking:
            lease.release()
            await settle()
            lease = next(one.lease for one in asking if one.turn and one.lease.open)
            order.append(lease.client)
        lease.release()
        return order

    def ask(
        self,
        model: str = "a",
        client: str = "alice",
        address: str = "",
        priority: Priority = "normal",
        **facts: Any,
    ) -> Asking:
        return Asking(self, model, client, address, priority, **facts)

    def full(self, model: str) -> bool:
        return all(self.balancer.backend(name).ledger.full for name in MODELS[model])


async def settle() -> None:
    """Let everything that can go on go on."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_free_place_is_given_without_a_wait() -> None:
    house = House(capacity=0)

    assert house.ask().lease.server == "A"
    assert len(house.queue) == 0


async def test_a_place_is_handed_over_in_the_moment_it_becomes_free() -> None:
    house = House()
    first = house.ask().lease
    queued = house.ask()

    first.release()

    assert house.balancer.backend("A").ledger.full
    await settle()
    assert queued.lease.open


async def test_who_came_first_is_served_first() -> None:
    house = House()
    held = house.ask().lease
    bob, carol = house.ask(client="bob"), house.ask(client="carol")

    held.release()
    await settle()

    assert carol.turn is None
    bob.lease.release()
    await settle()
    assert carol.lease.client == "carol"


async def test_who_lost_its_turn_to_another_balancer_is_the_next() -> None:
    house = House()
    held = house.ask().lease
    asking = [house.ask(client="bob"), house.ask(client="carol", address="10.0.0.2")]
    asking += [house.ask(client="dave", address="10.0.0.2", had_turn=True)]

    assert await house.serve(held, asking) == ["dave", "bob", "carol"]


async def test_who_lost_its_turn_does_not_wait_for_longer_than_others() -> None:
    house = House(timeout=60.0)
    house.ask()
    late = house.ask(client="bob", since=monotonic() - 60.0, had_turn=True)
    await asyncio.sleep(0.001)
    await settle()

    assert isinstance(late.turn, QueueTimeout)


async def test_one_who_asks_often_holds_nobody_up() -> None:
    house = House()
    held = house.ask().lease
    greedy = [house.ask(client="bob") for _ in range(5)]
    modest = house.ask(client="carol")

    held.release()
    await settle()
    greedy[0].lease.release()
    await settle()

    assert modest.lease.client == "carol"
    assert greedy[1].turn is None


async def test_clients_take_turns_and_each_is_served_in_its_own_order() -> None:
    house = House()
    lease = house.ask().lease
    queued = [house.ask(client=client) for client in ("b", "b", "b", "c", "d", "c")]

    assert await house.serve(lease, queued) == ["b", "c", "d", "b", "c", "b"]
    assert all(one.turn for one in queued)


async def test_addresses_take_turns_whatever_names_come_from_them() -> None:
    house = House()
    lease = house.ask().lease
    names = [house.ask(client=name, address="1") for name in ("b", "c", "d", "c")]
    others = [house.ask(client=name, address="2") for name in ("e", "f")]

    assert await house.serve(lease, [*names, *others]) == ["b", "e", "c", "f", "d", "c"]


async def test_an_address_overtakes_another_once_under_whatever_names() -> None:
    house = House()
    lease = house.ask().lease
    modest = house.ask(client="b", address="1")
    names = [house.ask(client=name, address="2") for name in ("c", "d", "e")]
    house.cached = {"c", "d", "e"}

    assert await house.serve(lease, [modest, *names]) == ["c", "b", "d", "e"]


async def test_a_higher_priority_goes_first_and_within_one_all_is_as_ever() -> None:
    house = House()
    lease = house.ask().lease
    queued = [
        house.ask(client=f"{priority} {client}", priority=priority)
        for priority in reversed(PRIORITIES)
        for client in ("b", "b", "c")
    ]

    served = await house.serve(lease, queued)

    assert served == [f"{p} {client}" for p in PRIORITIES for client in ("b", "c", "b")]


async def test_a_lower_priority_has_a_turn_after_every_few_of_a_higher() -> None:
    house = House()
    lease = house.ask().lease
    queued = [house.ask(client="batch", priority="batch") for _ in range(3)]
    queued += [house.ask(client="people", priority="interactive") for _ in range(30)]

    served = await house.serve(lease, queued)

    places = [number for number, client in enumerate(served) if client == "batch"]
    assert places == [PASSED_LIMIT, 2 * PASSED_LIMIT + 1, 3 * PASSED_LIMIT + 2]


async def test_no_priority_starves_while_two_higher_ones_wait() -> None:
    house = House()
    lease = house.ask().lease
    queued = [house.ask(client=p, priority=p) for p in PRIORITIES for _ in range(20)]

    served = await house.serve(lease, queued)

    most = 2 * (PASSED_LIMIT + 1)
    assert "batch" in served[:most]
    assert "normal" in served[:most]


async def test_a_place_that_a_lower_priority_alone_can_use_is_its_own() -> None:
    house = House()
    a, b = house.ask("a").lease, house.ask("b").lease
    house.ask("b")
    for_a = house.ask("a", priority="interactive")
    for_b = house.ask("b", priority="batch")

    b.release()
    await settle()

    assert for_b.lease.server == "B"
    assert for_a.turn is None
    a.release()


async def test_a_full_queue_makes_room_for_a_higher_priority() -> None:
    house = House(capacity=2)
    held = house.ask().lease
    early, late = [house.ask(client=name, priority="batch") for name in ("b", "c")]

    urgent = house.ask()
    await settle()

    assert isinstance(late.turn, QueueFull)
    held.release()
    await settle()
    urgent.lease.release()
    await settle()
    assert early.lease.open


async def test_a_full_queue_makes_no_room_for_the_same_priority() -> None:
    house = House(capacity=1)
    house.ask()
    house.ask(priority="interactive")

    with pytest.raises(QueueFull):
        house.ask(priority="interactive")


async def test_one_of_the_next_few_whose_prompt_is_cached_goes_first_but_not_for_ever() -> None:
    house = House()
    lease = house.ask().lease
    clients = [f"client {number}" for number in range(OVERTAKING_LIMIT + 2)]
    house.cached = set(clients[1:])
    queued = [house.ask(client=client) for client in clients]

    assert await house.serve(lease, queued) == [*clients[1:-1], clients[0], clients[-1]]


async def test_one_who_went_first_does_so_again_only_once_those_it_passed_were_served() -> None:
    house = House()
    lease = house.ask().lease
    house.cached = {"agent"}
    users = [f"user {number}" for number in range(4)]
    queued = [house.ask(client=client) for client in [*users, *["agent"] * 9]]

    assert await house.serve(lease, queued) == ["agent", *users, *["agent"] * 8]


async def test_many_requests_of_one_client_do_not_keep_another_from_going_first() -> None:
    house = House()
    held = house.ask().lease
    house.cached = {"carol"}
    queued = [house.ask(client=client) for client in [*["bob"] * LOOKAHEAD, "carol"]]

    held.release()
    await settle()

    assert queued[-1].lease.client == "carol"


async def test_one_is_passed_by_only_where_the_place_could_have_been_its_own() -> None:
    house = House()
    a, b, b2 = house.ask("a").lease, house.ask("b").lease, house.ask("b").lease
    for_a = house.ask("a", "alice")
    for_b = [house.ask("b", f"client {number}") for number in range(OVERTAKING_LIMIT + 1)]
    house.cached = {f"client {number}" for number in range(1, OVERTAKING_LIMIT + 1)}
    late = house.ask("a", "late")
    house.cached.add("late")

    for one in for_b[1:]:
        b.release()
        await settle()
        b = one.lease
    a.release()
    await settle()

    assert late.lease.server == "A"
    assert for_a.turn is None
    late.lease.release()
    b2.release()
    await settle()
    assert for_a.lease.open
    assert for_b[0].lease.open


async def test_one_far_back_does_not_go_first_whatever_the_cache_holds() -> None:
    house = House()
    held = house.ask().lease
    house.cached = {str(LOOKAHEAD)}
    queued = [house.ask(client=str(number)) for number in range(LOOKAHEAD + 1)]

    held.release()
    await settle()

    assert [one.turn is not None for one in queued] == [True] + [False] * LOOKAHEAD


async def test_who_is_turned_away_learns_how_many_were_ahead() -> None:
    house = House(capacity=3)
    house.ask()
    for client in ("b", "b", "c"):
        house.ask(client=client)

    with pytest.raises(QueueFull) as told:
        house.ask(client="d")

    assert (told.value.ahead, told.value.expected) == (3, None)


async def test_who_cannot_use_the_free_place_lets_the_next_one_pass() -> None:
    house = House()
    a, b = house.ask("a").lease, house.ask("b").lease
    house.ask("b")
    for_a, for_b = house.ask("a"), house.ask("b")

    b.release()
    await settle()

    assert for_b.lease.server == "B"
    assert for_a.turn is None
    a.release()
    await settle()
    assert for_a.lease.server == "A"


async def test_no_more_wait_than_may() -> None:
    house = House(capacity=1)
    held = house.ask().lease
    queued = house.ask()

    with pytest.raises(QueueFull):
        house.ask()

    held.release()
    await settle()
    assert queued.lease.open


async def test_a_wait_has_an_end() -> None:
    house = House(timeout=0.0)
    held = house.ask().lease

    queued = house.ask()
    await settle()

    assert isinstance(queued.turn, QueueTimeout)
    assert len(house.queue) == 0
    held.release()
    assert house.balancer.backend("A").ledger.total == 0


async def test_a_place_that_comes_in_the_moment_in_which_the_wait_ends_is_taken() -> None:
    house = House(timeout=0.0)
    held = house.ask().lease
    queued = house.ask()

    held.release()  # the timer is due, and has not run yet
    await settle()

    queued.lease.release()
    assert house.balancer.backend("A").ledger.total == 0


async def test_how_fast_a_queue_moved_is_forgotten_once_nobody_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr("app.proxy.queue.monotonic", clock)
    house = House(capacity=2)
    lease = house.ask().lease
    queued = [house.ask(client=client) for client in ("b", "c")]
    for one in queued:
        clock.tick(10)
        lease.release()
        await settle()
        lease = one.lease
    clock.tick(7200)
    for client in ("b", "c"):
        house.ask(client=client)

    with pytest.raises(QueueFull) as told:
        house.ask()

    assert told.value.expected is None


async def test_one_that_leaves_in_the_moment_of_its_turn_passes_the_place_on() -> None:
    house = House()
    held = house.ask().lease
    leaver, heir = house.ask(client="bob"), house.ask(client="carol")

    held.release()
    leaver.leave()
    await settle()

    assert leaver.turn is None
    assert heir.lease.client == "carol"


async def test_news_of_a_server_can_end_a_wait() -> None:
    house = House()
    house.ask("a")
    house.balancer.observe(ModelsSeen("A", ["other"]))
    house.balancer.observe(ModelsSeen("B", ["m"]))
    for _ in range(2):
        house.ask("b")
    queued = house.ask("m")
    await settle()
    assert queued.turn is None

    for lease in house.balancer.backend("B").ledger.leases():
        lease.release()
    await settle()

    assert queued.lease.server == "B"


async def test_the_snapshot_tells_who_waits_for_what() -> None:
    house = House(capacity=7)
    assert house.queue.snapshot() == {
        "waiting": 0,
        "max": 7,
        "clients": 0,
        "by_model": {},
        "by_priority": {"interactive": 0, "normal": 0, "batch": 0},
        "oldest_wait_seconds": 0.0,
        "expected_wait_seconds": None,
    }
    house.ask("a")
    queued = [house.ask("a"), house.ask("a")]

    told = house.queue.snapshot()

    assert (told["waiting"], told["by_model"]) == (2, {"a": 2})
    for one in queued:
        one.leave()
    assert len(house.queue) == 0


class Queueing(RuleBasedStateMachine):
    """Requests ask, leave and end, in any order, with and without a turn of the loop between."""

    requests = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Asking] = []

    @initialize()
    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.house = House(capacity=4)
        self.house.cached = {"bob"}

    def settle(self) -> None:
        self.loop.run_until_complete(settle())

    async def _ask(self, model: str, client: str, priority: Priority) -> Asking | None:
        try:
            return self.house.ask(model, client, priority=priority)
        except QueueFull:
            return None

    async def _act(self, *actions: Callable[[], None]) -> None:
        for action in actions:
            action()

    @rule(
        target=requests,
        model=st.sampled_from(sorted(MODELS)),
        client=st.sampled_from(["alice", "bob", "carol"]),
        priority=st.sampled_from(PRIORITIES),
        settled=st.booleans(),
    )
    def ask(self, model: str, client: str, priority: Priority, settled: bool) -> Asking | None:
        asking = self.loop.run_until_complete(self._ask(model, client, priority))
        if asking is not None:
            self.all.append(asking)
        if settled:
            self.settle()
        return asking

    @rule(asking=requests, settled=st.booleans())
    def leave(self, asking: Asking | None, settled: bool) -> None:
        if asking is not None and asking.turn is None:
            self.loop.run_until_complete(self._act(asking.leave))
        if settled:
            self.settle()

    @rule(asking=requests, times=st.integers(1, 2), settled=st.booleans())
    def release(self, asking: Asking | None, times: int, settled: bool) -> None:
        if asking is not None and isinstance(asking.turn, Lease):
            self.loop.run_until_complete(self._act(*[asking.turn.release] * times))
        if settled:
            self.settle()

    @rule(first=requests, second=consumes(requests))
    def release_and_leave_at_once(self, first: Asking | None, second: Asking | None) -> None:
        actions = []
        if first is not None and isinstance(first.turn, Lease):
            actions.append(first.turn.release)
        if second is not None and second.turn is None:
            actions.append(second.leave)
        self.loop.run_until_complete(self._act(*actions))
        self.settle()

    @invariant()
    def no_server_is_above_its_limit(self) -> None:
        for backend in self.house.balancer.backends():
            assert backend.ledger.total <= LIMITS[backend.server.name]

    @invariant()
    def the_ledgers_hold_exactly_the_open_leases(self) -> None:
        self.settle()
        booked = {x for s in self.house.balancer.backends() for x in s.ledger.leases()}
        held = {one.turn for one in self.all if isinstance(one.turn, Lease)}
        assert booked == {lease for lease in held if lease.open}

    @invariant()
    def nobody_waits_beside_a_free_place(self) -> None:
        self.settle()
        full = {s.server.name: s.ledger.full for s in self.house.balancer.backends()}
        for model in self.house.queue.by_model():
            assert all(full[server] for server in MODELS[model])

    @invariant()
    def no_more_wait_than_may(self) -> None:
        assert len(self.house.queue) <= self.house.queue.capacity

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.close()


Queueing.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestQueueing = Queueing.TestCase
