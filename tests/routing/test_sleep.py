"""A server that sleeps is woken where that is sooner than waiting for the others."""

from app.routing.backend import Backend
from app.routing.balancer import Balancer, Refusal
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.ledger import Lease
from app.routing.observations import ModelsSeen, ProbeFailed
from tests.fakes.clock import Clock

ASK = Ask("m", ("m",), "alice", "10.0.0.1")


class Machines:
    """A awake with one place, and B asleep."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.woken: list[str] = []
        servers = [
            Server("A", "http://a", request_max=1),
            Server("B", "http://b", request_max=1, wakes=True),
        ]
        fleet = Fleet.of(servers, {".*": ["A", "B"]})
        self.balancer = Balancer(fleet, clock=self.clock)
        self.balancer.on_wake = lambda backend: self.woken.append(backend.server.name)
        for server in servers:
            self.balancer.observe(ModelsSeen(server.name, ["m"]))
        self.fails("B")

    def fails(self, server: str) -> None:
        self.balancer.observe(ProbeFailed(server, "models", unreachable=True))

    def comes_up(self, server: str) -> None:
        for _ in range(2):
            self.balancer.observe(ModelsSeen(server, ["m"]))

    @property
    def sleeper(self) -> Backend:
        return self.balancer.backend("B")

    def fill(self, seconds: float) -> None:
        """Have A's place taken, as it is for so many seconds each time."""
        lease = self.take()
        self.clock.tick(seconds)
        lease.succeeded = True
        lease.release()
        self.take()

    def take(self) -> Lease:
        placed = self.balancer.place(ASK)
        assert isinstance(placed, Lease), placed
        return placed


def test_nobody_is_woken_while_another_has_room() -> None:
    machines = Machines()
    assert machines.take().server == "A"
    assert machines.sleeper.status == "asleep"
    assert not machines.woken


def test_a_server_is_woken_where_the_others_take_longer() -> None:
    machines = Machines()
    machines.fill(100)
    assert machines.balancer.place(ASK) is Refusal.WAKING
    assert machines.woken == ["B"]
    assert machines.sleeper.status == "waking"


def test_a_server_sleeps_on_where_another_will_have_room_sooner() -> None:
    machines = Machines()
    machines.fill(10)
    assert machines.balancer.place(ASK) is Refusal.FULL
    assert not machines.woken


def test_how_long_it_takes_to_wake_is_learnt() -> None:
    machines = Machines()
    machines.fill(100)
    machines.balancer.place(ASK)
    machines.clock.tick(20)
    machines.comes_up("B")
    assert machines.take().server == "B"

    machines.fails("B")
    assert machines.sleeper.sleep.seconds_left(machines.clock()) == 20


def test_it_is_woken_once_for_all_that_wait() -> None:
    machines = Machines()
    machines.fill(100)
    for _ in range(5):
        assert machines.balancer.place(ASK) is Refusal.WAKING
    assert machines.woken == ["B"]


def test_it_is_woken_where_no_other_is_up() -> None:
    machines = Machines()
    machines.fails("A")
    assert machines.balancer.place(ASK, tried=["A"]) is Refusal.WAKING


def test_one_that_does_not_wake_is_down() -> None:
    machines = Machines()
    machines.fails("A")
    machines.balancer.place(ASK, tried=["A"])
    machines.balancer.settle(machines.sleeper, "failed", "did not wake")

    assert machines.sleeper.status == "invalid"
    assert machines.balancer.place(ASK, tried=["A", "B"]) is Refusal.DOWN


def test_one_that_an_administrator_drains_is_not_woken() -> None:
    machines = Machines()
    machines.balancer.drain("B", on=True)
    machines.fill(100)
    assert machines.balancer.place(ASK) is Refusal.FULL
    assert not machines.woken


def test_one_that_falls_asleep_gets_nothing_and_is_woken_once_it_is_gone() -> None:
    machines = Machines()
    machines.comes_up("B")
    machines.fill(100)
    machines.balancer.settle(machines.sleeper, "falling", "not used")
    assert machines.balancer.place(ASK) is Refusal.FULL
    assert not machines.woken

    machines.fails("B")
    assert machines.balancer.place(ASK) is Refusal.WAKING
    assert machines.woken == ["B"]


def test_models_of_a_server_that_sleeps_are_listed() -> None:
    machines = Machines()
    machines.clock.tick(10_000)
    assert machines.sleeper in machines.balancer.listing(10.0)


def test_a_server_that_cannot_be_woken_is_down_when_it_is_gone() -> None:
    machines = Machines()
    machines.fails("A")
    assert machines.balancer.backend("A").status == "invalid"
