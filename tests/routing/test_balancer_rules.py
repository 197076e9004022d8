"""Invariants of placing and releasing, searched by Hypothesis."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from app.routing.balancer import Balancer
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.health_window import Sample
from app.routing.ledger import Lease
from app.routing.observations import CacheReuse, HealthSeen, ModelsSeen, ProbeFailed, SelfReport
from app.routing.prompt import Prompt
from tests.fakes.clock import Clock
from tests.fakes.kinds import LLAMA_CPP

LIMITS = {"A": 1, "B": 2, "C": 3}
CLIENTS = st.sampled_from(["alice", "bob", "carol"])
MODELS = st.sampled_from(["m", "n", "unmatched"])
SERVERS = st.sampled_from(sorted(LIMITS))
SYSTEM = "kind " * 60
PROMPTS = st.none() | st.lists(st.sampled_from(["user hi", "user bye"]), min_size=1, max_size=4)


class Placing(RuleBasedStateMachine):
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        servers = [Server(name, f"http://{name}", request_max=n) for name, n in LIMITS.items()]
        fleet = Fleet.of(servers, {"m": ["A", "B", "C"], "n": ["B", "A"]}, fallback="C")
        self.balancer = Balancer(fleet, clock=self.clock)
        self.held: list[Lease] = []

    @rule(target=leases, client=CLIENTS, model=MODELS, tried=st.sets(SERVERS), said=PROMPTS)
    def place(
        self, client: str, model: str, tried: set[str], said: list[str] | None
    ) -> Lease | None:
        valid = {s.server.name for s in self.balancer.backends() if s.health.healthy}
        room = {
            s.server.name for s in self.balancer.backends() if s.accepting and not s.ledger.full
        }
        prompt = None if said is None else Prompt([SYSTEM, *said], opening=1)
        ask = Ask(model, (model,), client, "10.0.0.1", prompt)
        _, considered = self.balancer.consider(ask)
        lease = self.balancer.place(ask, tried)
        if not isinstance(lease, Lease):
            return None
        candidates = set(self.balancer.fleet.candidates(model) or ("C",)) - tried
        assert lease.server in candidates & room
        if lease.reason not in ("fallback", "last_resort"):
            assert lease.server in valid
        if not tried:
            assert considered is not None
            assert (considered.server, considered.instance) == (lease.server, lease.instance)
            place = considered.placement
            if lease.slot is not None:
                assert place is not None
                assert place.slot is not None
                assert place.slot.number == lease.slot
        if lease.reason == "last_resort":
            hopeful = [self.balancer.backend(name) for name in valid & candidates]
            assert all(s.lacks((model,)) or s.draining for s in hopeful)
        if lease.slot is not None:
            assert lease.slot not in self.balancer.backend(lease.server).elsewhere
        self.held.append(lease)
        return lease

    @rule(lease=leases, succeeded=st.booleans())
    def release(self, lease: Lease | None, succeeded: bool = True) -> None:
        if lease is not None:
            lease.succeeded = lease.succeeded or succeeded
            lease.release()
            if lease in self.held:
                self.held.remove(lease)

    @rule(lease=leases)
    def leave(self, lease: Lease | None) -> None:
        if lease in self.held:
            lease.linger()

    @rule(lease=consumes(leases))
    def release_twice(self, lease: Lease | None) -> None:
        self.release(lease)
        self.release(lease)

    @rule(server=SERVERS, unreachable=st.booleans())
    def fail(self, server: str, unreachable: bool) -> None:
        self.balancer.observe(ProbeFailed(server, "models", unreachable))

    @rule(server=SERVERS, models=st.none() | st.sets(st.sampled_from(["m", "m-2", "n", "n-3"])))
    def answer(self, server: str, models: set[str] | None) -> None:
        self.balancer.observe(ModelsSeen(server, models))
        self.balancer.observe(HealthSeen(server, Sample(False, 0.0, self.clock())))

    @rule(server=SERVERS, slots=st.integers(1, 4), busy=st.sets(st.integers(0, 3)))
    def report(self, server: str, slots: int, busy: set[int]) -> None:
        at_work = frozenset(number for number in busy if number < slots)
        self.balancer.observe(SelfReport(server, LLAMA_CPP, slots=slots, busy_slots=at_work))

    @rule(server=SERVERS)
    def load(self, server: str) -> None:
        self.balancer.observe(SelfReport(server, LLAMA_CPP, loading=True))

    @rule(server=SERVERS, on=st.booleans())
    def drain(self, server: str, on: bool) -> None:
        self.balancer.drain(server, on=on)

    @rule(lease=leases, cached=st.none() | st.integers(0, 100))
    def tell_tokens(self, lease: Lease | None, cached: int | None) -> None:
        if lease is not None:
            lease.reuse = CacheReuse(100, cached, 0.5)

    @rule(seconds=st.sampled_from([1.0, 100.0, 200.0]))
    def wait(self, seconds: float) -> None:
        self.clock.tick(seconds)

    @invariant()
    def no_server_is_above_its_limit(self) -> None:
        for backend in self.balancer.backends():
            assert backend.ledger.total <= LIMITS[backend.server.name]

    @invariant()
    def no_slot_is_named_to_two(self) -> None:
        for backend in self.balancer.backends():
            leases = [x for x in backend.ledger.leases() if not x.lingers]
            named = [x.slot for x in leases if x.slot is not None]
            assert len(set(named)) == len(named)

    @invariant()
    def the_ledgers_hold_exactly_the_open_leases(self) -> None:
        booked = [lease for s in self.balancer.backends() for lease in s.ledger.leases()]
        assert len(booked) == len(self.held)
        assert set(booked) == set(self.held)


Placing.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestPlacing = Placing.TestCase


SAYINGS = st.lists(st.sampled_from(["user hi", "user bye"]), min_size=1, max_size=4)


@given(st.integers(1, 3), st.lists(st.tuples(SAYINGS, st.integers(0, 8)), max_size=30))
def test_a_prompt_goes_where_a_look_at_all_servers_and_slots_would_send_it(
    slots: int, steps: list[tuple[list[str], int]]
) -> None:
    clock = Clock()
    servers = [Server(name, f"http://{name}") for name in LIMITS]
    fleet = Fleet.of(servers, {"m": ["B", "C", "A"]}, fallback="C")
    balancer = Balancer(fleet, clock=clock)
    under_way: list[Lease] = []
    for name in LIMITS:
        balancer.observe(ModelsSeen(name, {"m", "m-2"}))
        balancer.observe(HealthSeen(name, Sample(False, 0.0, clock())))
        balancer.observe(SelfReport(name, LLAMA_CPP, slots=slots, busy_slots=frozenset()))
        balancer.backend(name).ejection.quiet = True
    for said, most in steps:
        clock.tick(1)
        ask = Ask("m", ("m",), "alice", "10.0.0.1", Prompt([SYSTEM, *said], opening=1))
        choice = balancer.consider(ask)[1]
        lease = balancer.place(ask)
        assert isinstance(lease, Lease)
        assert choice is not None
        place = choice.placement
        assert place is not None
        slot = None if place.slot is None else place.slot.number
        where = lease.server, lease.instance, lease.reason, lease.slot
        assert (choice.server, choice.instance, choice.reason, slot) == where
        under_way.append(lease)
        while len(under_way) > min(most, len(LIMITS) * slots - 1):
            ended = under_way.pop(0)
            ended.succeeded = True
            ended.release()
