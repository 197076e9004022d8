"""The waiting room: rules one by one, and invariants searched by Hypothesis."""

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from app.proxy.queue import PATIENCE, REACH, QueueFull, QueueTimeout, WaitingRoom
from app.routing.balancer import Balancer, Refusal
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.ledger import Lease
from app.routing.news import ModelsAnswer
from tests.fakes.clock import Clock

pytestmark = pytest.mark.anyio

LIMITS = {"A": 1, "B": 2}
MODELS = {"m": ["A", "B"], "a": ["A"], "b": ["B"]}


class House:
    """A balancer with a waiting room."""

    def __init__(self, *, capacity: int = 100, timeout: float = 60.0) -> None:
        servers = [Server(name, f"http://{name}", request_max=n) for name, n in LIMITS.items()]
        self.balancer = Balancer(Fleet.of(servers, MODELS), clock=Clock())
        self.cached: set[str] = set()
        """Clients whose prompt is in the cache of whatever place becomes free."""
        self.room = WaitingRoom(self.balancer, capacity=capacity, timeout=timeout)

    async def serve(self, lease: Lease, waiters: "list[asyncio.Task[Lease]]") -> list[str]:
        """Release one place again and again; tells who got it, in order."""
        order = []
        for _ in waiters:
            lease.release()
            await settle()
            lease = next(w.result() for w in waiters if w.done() and w.result().open)
            order.append(lease.client)
        lease.release()
        return order

    async def lease(self, model: str = "a", client: str = "alice") -> Lease:
        ask = Ask(model, (model,), client, "10.0.0.1")
        answer = self.balancer.place(ask)
        if answer is Refusal.FULL:
            answer = await self.room.wait(
                client,
                model,
                lambda: self.balancer.place(ask),
                held=lambda: client in self.cached and not self.full(model),
            )
        assert isinstance(answer, Lease)
        return answer

    def full(self, model: str) -> bool:
        return all(self.balancer.standing(name).ledger.full for name in MODELS[model])

    def knock(self, model: str = "a", client: str = "alice") -> "asyncio.Task[Lease]":
        return asyncio.ensure_future(self.lease(model, client))


async def settle() -> None:
    """Let everything that can go on go on."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_free_place_is_given_without_a_wait() -> None:
    house = House(capacity=0)

    assert (await house.lease()).server == "A"
    assert len(house.room) == 0


async def test_a_place_is_handed_over_in_the_moment_it_becomes_free() -> None:
    house = House()
    first = await house.lease()
    waiter = house.knock()
    await settle()

    first.release()

    assert house.balancer.standing("A").ledger.full
    assert (await waiter).open


async def test_who_came_first_is_served_first() -> None:
    house = House()
    held = await house.lease()
    waiters = [house.knock(client=client) for client in ("bob", "carol")]
    await settle()

    held.release()
    await settle()

    assert [waiter.done() for waiter in waiters] == [True, False]
    waiters[0].result().release()
    assert (await waiters[1]).client == "carol"


async def test_one_who_asks_often_holds_nobody_up() -> None:
    house = House()
    held = await house.lease()
    greedy = [house.knock(client="bob") for _ in range(5)]
    await settle()
    modest = house.knock(client="carol")
    await settle()

    held.release()
    (await greedy[0]).release()

    assert (await modest).client == "carol"
    assert not greedy[1].done()


async def test_clients_take_turns_and_each_is_served_in_its_own_order() -> None:
    house = House()
    lease = await house.lease()
    waiters = [house.knock(client=client) for client in ("b", "b", "b", "c", "d", "c")]
    await settle()

    assert await house.serve(lease, waiters) == ["b", "c", "d", "b", "c", "b"]
    assert [waiter.done() for waiter in waiters] == [True] * 6


async def test_one_of_the_next_few_whose_prompt_is_cached_goes_first_but_not_for_ever() -> None:
    house = House()
    lease = await house.lease()
    clients = [f"client {number}" for number in range(PATIENCE + 2)]
    house.cached = set(clients[1:])
    waiters = [house.knock(client=client) for client in clients]
    await settle()

    assert await house.serve(lease, waiters) == [*clients[1:-1], clients[0], clients[-1]]


async def test_one_who_went_first_does_so_again_only_once_those_it_passed_were_served() -> None:
    house = House()
    lease = await house.lease()
    house.cached = {"agent"}
    users = [f"user {number}" for number in range(4)]
    waiters = [house.knock(client=client) for client in [*users, *["agent"] * 9]]
    await settle()

    assert await house.serve(lease, waiters) == ["agent", *users, *["agent"] * 8]


async def test_many_requests_of_one_client_do_not_keep_another_from_going_first() -> None:
    house = House()
    held = await house.lease()
    house.cached = {"carol"}
    waiters = [house.knock(client=client) for client in [*["bob"] * REACH, "carol"]]
    await settle()

    held.release()

    assert (await waiters[-1]).client == "carol"
    for waiter in waiters[:-1]:
        waiter.cancel()
    await settle()


async def test_one_is_passed_by_only_where_the_place_could_have_been_its_own() -> None:
    house = House()
    a, b, b2 = await house.lease("a"), await house.lease("b"), await house.lease("b")
    for_a = house.knock("a", "alice")
    for_b = [house.knock("b", f"client {number}") for number in range(PATIENCE + 1)]
    house.cached = {f"client {number}" for number in range(1, PATIENCE + 1)}
    late = house.knock("a", "late")
    house.cached.add("late")
    await settle()

    for waiter in for_b[1:]:
        b.release()
        b = await waiter
    a.release()

    assert (await late).server == "A"
    assert not for_a.done()
    late.result().release()
    assert (await for_a).open
    b2.release()
    assert (await for_b[0]).open


async def test_one_far_back_does_not_go_first_whatever_the_cache_holds() -> None:
    house = House()
    held = await house.lease()
    house.cached = {str(REACH)}
    waiters = [house.knock(client=str(number)) for number in range(REACH + 1)]
    await settle()

    held.release()
    await settle()

    assert [waiter.done() for waiter in waiters] == [True] + [False] * REACH
    for waiter in waiters:
        waiter.cancel()
    await settle()


async def test_who_is_turned_away_learns_how_many_were_ahead() -> None:
    house = House(capacity=3)
    await house.lease()
    waiters = [house.knock(client=client) for client in ("b", "b", "c")]
    await settle()

    with pytest.raises(QueueFull) as told:
        await house.lease(client="d")

    assert (told.value.ahead, told.value.expected) == (3, None)
    for waiter in waiters:
        waiter.cancel()
    await settle()


async def test_who_cannot_use_the_free_place_lets_the_next_one_pass() -> None:
    house = House()
    a, b1 = await house.lease("a"), await house.lease("b")
    await house.lease("b")
    for_a, for_b = house.knock("a"), house.knock("b")
    await settle()

    b1.release()

    assert (await for_b).server == "B"
    assert not for_a.done()
    a.release()
    assert (await for_a).server == "A"


async def test_no_more_wait_than_may() -> None:
    house = House(capacity=1)
    held = await house.lease()
    waiter = house.knock()
    await settle()

    with pytest.raises(QueueFull):
        await house.lease()

    held.release()
    assert (await waiter).open


async def test_a_wait_has_an_end() -> None:
    house = House(timeout=0.0)
    held = await house.lease()

    with pytest.raises(QueueTimeout):
        await house.lease()

    assert len(house.room) == 0
    held.release()
    assert house.balancer.standing("A").ledger.total == 0


async def test_a_place_that_comes_in_the_moment_in_which_the_wait_ends_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timeouts: list[asyncio.Timeout] = []
    make = asyncio.timeout

    def noted(seconds: float) -> asyncio.Timeout:
        timeouts.append(make(seconds))
        return timeouts[-1]

    monkeypatch.setattr(asyncio, "timeout", noted)
    house = House()
    held = await house.lease()
    waiter = house.knock()
    await settle()

    timeouts[0].reschedule(0.0)
    held.release()

    (await waiter).release()
    assert house.balancer.standing("A").ledger.total == 0


async def test_how_fast_a_queue_moved_is_forgotten_once_nobody_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr("app.proxy.queue.monotonic", clock)
    house = House(capacity=2)
    lease = await house.lease()
    waiters = [house.knock(client=client) for client in ("b", "c")]
    await settle()
    for waiter in waiters:
        clock.tick(10)
        lease.release()
        lease = await waiter
    clock.tick(7200)
    waiters = [house.knock(client=client) for client in ("b", "c")]
    await settle()

    with pytest.raises(QueueFull) as told:
        await house.lease()

    assert told.value.expected is None
    for waiter in waiters:
        waiter.cancel()
    await settle()


async def test_a_waiter_that_leaves_in_the_moment_of_its_turn_passes_the_place_on() -> None:
    house = House()
    held = await house.lease()
    leaver, heir = house.knock(client="bob"), house.knock(client="carol")
    await settle()

    held.release()
    leaver.cancel()
    await settle()

    assert leaver.cancelled()
    assert heir.result().client == "carol"


async def test_news_of_a_server_can_end_a_wait() -> None:
    house = House()
    await house.lease("a")
    house.balancer.learn(ModelsAnswer("A", ["other"]))
    house.balancer.learn(ModelsAnswer("B", ["m"]))
    for _ in range(2):
        await house.lease("b")
    waiter = house.knock("m")
    await settle()
    assert not waiter.done()

    for lease in house.balancer.standing("B").ledger.leases():
        lease.release()

    assert (await waiter).server == "B"


async def test_the_snapshot_tells_who_waits_for_what() -> None:
    house = House(capacity=7)
    assert house.room.snapshot() == {
        "waiting": 0,
        "max": 7,
        "clients": 0,
        "by_model": {},
        "oldest_wait_seconds": 0.0,
        "expected_wait_seconds": None,
    }
    await house.lease("a")
    waiters = [house.knock("a"), house.knock("a")]
    await settle()

    told = house.room.snapshot()

    assert (told["waiting"], told["by_model"]) == (2, {"a": 2})
    for waiter in waiters:
        waiter.cancel()
    await settle()
    assert len(house.room) == 0


class Waiting(RuleBasedStateMachine):
    tasks = Bundle("tasks")

    def __init__(self) -> None:
        super().__init__()
        self.all: list[asyncio.Task[Lease]] = []

    @initialize()
    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.house = House(capacity=4)
        self.house.cached = {"bob"}

    def settle(self) -> None:
        self.loop.run_until_complete(settle())

    async def snapshot(self) -> dict[str, object]:
        return self.house.room.snapshot()

    async def clear(self) -> None:
        for task in self.all:
            task.cancel()
        await asyncio.gather(*self.all, return_exceptions=True)

    @rule(
        target=tasks,
        model=st.sampled_from(sorted(MODELS)),
        client=st.sampled_from(["alice", "bob", "carol"]),
        settled=st.booleans(),
    )
    def knock(self, model: str, client: str, settled: bool) -> "asyncio.Task[Lease]":
        task = self.loop.create_task(self.house.lease(model, client))
        self.all.append(task)
        if settled:
            self.settle()
        return task

    @rule(task=tasks, settled=st.booleans())
    def leave(self, task: "asyncio.Task[Lease]", settled: bool) -> None:
        task.cancel()
        if settled:
            self.settle()

    @rule(task=tasks, times=st.integers(1, 2), settled=st.booleans())
    def release(self, task: "asyncio.Task[Lease]", times: int, settled: bool) -> None:
        if task.done() and not task.cancelled() and task.exception() is None:
            for _ in range(times):
                task.result().release()
        if settled:
            self.settle()

    @rule(first=tasks, second=consumes(tasks))
    def release_and_leave_at_once(
        self, first: "asyncio.Task[Lease]", second: "asyncio.Task[Lease]"
    ) -> None:
        self.release(first, 1, settled=False)
        second.cancel()
        self.settle()

    @invariant()
    def no_server_is_above_its_limit(self) -> None:
        for standing in self.house.balancer.standings():
            assert standing.ledger.total <= LIMITS[standing.server.name]

    @invariant()
    def the_ledgers_hold_exactly_the_open_leases(self) -> None:
        self.settle()
        booked = {x for s in self.house.balancer.standings() for x in s.ledger.leases()}
        held = {
            task.result()
            for task in self.all
            if task.done() and not task.cancelled() and task.exception() is None
        }
        assert booked == {lease for lease in held if lease.open}

    @invariant()
    def nobody_waits_beside_a_free_place(self) -> None:
        self.settle()
        full = {s.server.name: s.ledger.full for s in self.house.balancer.standings()}
        waiting = self.loop.run_until_complete(self.snapshot())["by_model"]
        assert isinstance(waiting, dict)
        for model in waiting:
            assert all(full[server] for server in MODELS[model])

    @invariant()
    def no_more_wait_than_may(self) -> None:
        assert len(self.house.room) <= self.house.room.capacity

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.run_until_complete(self.clear())
            self.loop.close()


Waiting.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestWaiting = Waiting.TestCase
