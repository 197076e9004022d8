"""What a slot holds is saved before it is lost, and restored where it is asked for again."""

from app.routing.balancer import Balancer
from app.routing.choice import Ask
from app.routing.fleet import Fleet, Server
from app.routing.ledger import Lease
from app.routing.observations import ModelsSeen, ProbeFailed, SelfReport
from app.routing.prompt import Prompt
from app.routing.prompt_cache import Rank
from app.routing.saved_prompts import REST
from tests.fakes.clock import Clock
from tests.fakes.kinds import LLAMA_CPP

SPEED = 10.0
"""Tokens that the server reads in a second: a turn of a hundred characters takes 2.5 s."""

TURNS = 10

Done = list[tuple[str, str]]
"""What was done with files, and which."""


class House:
    """One server of one slot, which keeps nothing in RAM."""

    def __init__(self, most: int = 8) -> None:
        self.clock = Clock()
        self.works = True
        """Whether the server saves and restores."""
        fleet = Fleet.of([Server("A", "http://a", request_max=1)], {".*": ["A"]})
        self.balancer = Balancer(fleet, clock=self.clock, saved_prompts=most)
        self.comes_up()

    def comes_up(self) -> None:
        for _ in range(2):
            self.balancer.observe(ModelsSeen("A", ["m"]))
        self.reports()
        backend = self.balancer.backend("A")
        backend.read_prompt(1, 1 / SPEED)
        cache = backend.prompt_cache("m")
        backend.keep("m", cache)
        cache.correct(Rank(0, 2), held=False)

    def reports(self) -> None:
        report = SelfReport("A", LLAMA_CPP, slots=1, busy_slots=frozenset())
        self.balancer.observe(report)

    def place(self, who: str, turns: int = TURNS) -> Lease:
        said = [f"user\n{who} {number} ".ljust(100, ".") for number in range(turns)]
        lease = self.balancer.place(Ask("m", ("m",), who, who, Prompt(said, opening=0)))
        assert isinstance(lease, Lease), lease
        return lease

    def serve(self, who: str, turns: int = TURNS) -> Done:
        """Serve a request; return what was done with files before."""
        self.clock.tick(1)
        lease, done = self.place(who, turns), []
        seconds = 0.1 if self.works else None
        if lease.files is not None and lease.files.save:
            done.append(("save", lease.files.save))
            self.balancer.note_saved(lease, seconds)
        if lease.files is not None and lease.files.restore:
            done.append(("restore", lease.files.restore))
            self.balancer.note_restored(lease, seconds)
        lease.succeeded = True
        lease.release()
        self.reports()
        return done


FIRST, SECOND, THIRD = (f"llama-balancer-{number}.bin" for number in (1, 2, 3))


def test_a_slot_is_saved_before_another_gets_it_and_restored_when_its_own_comes_back() -> None:
    house = House()
    assert house.serve("alice") == []
    assert house.serve("bob") == [("save", FIRST)]
    assert house.serve("alice") == [("save", SECOND), ("restore", FIRST)]
    assert house.serve("alice", TURNS + 1) == []


def test_names_are_used_again() -> None:
    house = House()
    used = {file for number in range(20) for _, file in house.serve("ab"[number % 2])}
    assert used <= {FIRST, SECOND, THIRD}


def test_no_more_files_are_written_than_may_be() -> None:
    house = House(most=2)
    done = [one for number in range(10) for one in house.serve(f"client {number}")]
    assert {file for _, file in done} == {FIRST, SECOND}
    assert house.serve("client 0") == [("save", done[-2][1])]


def test_what_is_soon_read_again_is_not_saved() -> None:
    house = House()
    house.serve("alice", 3)
    house.balancer.backend("A").prefill = 1000.0
    assert house.serve("bob") == []


def test_nothing_is_saved_where_none_may_be() -> None:
    house = House(most=0)
    house.serve("alice")
    assert house.serve("bob") == []


def test_a_server_that_cannot_save_is_left_alone_for_a_while() -> None:
    house = House()
    house.works = False
    house.serve("alice")
    assert house.serve("bob") == [("save", FIRST)]
    assert house.serve("alice") == []

    house.clock.tick(REST)
    house.serve("carol")
    assert house.serve("bob") == [("save", FIRST)]


def test_what_cannot_be_restored_is_read() -> None:
    house = House()
    house.serve("alice")
    house.serve("bob")
    house.works = False
    lease = house.place("alice")
    house.balancer.note_restored(lease, None)
    assert lease.prediction is None


def test_files_outlive_a_restart_of_the_server() -> None:
    house = House()
    house.serve("alice")
    house.serve("bob")
    house.balancer.observe(ProbeFailed("A", "models", unreachable=True))
    house.comes_up()
    assert house.serve("alice") == [("restore", FIRST)]


def test_what_was_to_be_done_for_a_request_that_ended_before_leaves_its_name() -> None:
    house = House()
    house.serve("alice")
    for _ in range(3):
        lease = house.place("bob")
        assert lease.files is not None
        assert lease.files.save == FIRST
        lease.worked = False
        lease.release()
        house.reports()


def test_what_a_file_replaces_is_believed_to_be_nowhere() -> None:
    house = House()
    house.serve("alice")
    house.serve("bob")
    house.works = False
    lease = house.place("alice")
    assert lease.files is not None
    house.balancer.note_saved(lease, None)
    house.balancer.note_restored(lease, 0.1)
    lease.release()
    house.reports()
    house.balancer.backend("A").prompt_cache("m").correct(Rank(0, 10**6), held=True)
    assert house.place("bob").reason == "evicted_prompt"
