"""Which machines have joined, who keeps silent, and who leaves."""

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.discovery.joined_servers import MEMORY, SILENCE, JoinedServers, Taken, read_servers
from app.settings import ServerSettings, Settings, SettingsError
from tests.fakes.clock import Clock

SETTINGS = Settings()


def servers(*names: str) -> dict[str, ServerSettings]:
    return {name: ServerSettings(addr=f"http://{name}:8081") for name in names}


class House:
    """Machines that join, and what a balancer would know of their servers."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.draining: set[str] = set()
        self.in_flight: dict[str, int] = {}
        self.changes = 0
        self.joined = JoinedServers(
            clock=self.clock,
            changed=self._changed,
            drain=lambda name, on: (self.draining.add if on else self.draining.discard)(name),
            in_flight=lambda name: self.in_flight.get(name, 0),
        )

    def _changed(self) -> None:
        self.changes += 1

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.joined.look()


def test_the_servers_of_a_machine_are_there_from_when_it_joins() -> None:
    house = House()
    house.joined.join("pc", "10.0.0.1", servers("a", "b"))
    assert [*house.joined.servers()] == ["a", "b"]


def test_to_say_the_same_again_changes_nothing() -> None:
    house = House()
    for _ in range(3):
        house.joined.join("pc", "10.0.0.1", servers("a"))
    assert house.changes == 1


def test_a_machine_that_keeps_silent_gets_no_new_requests_until_it_is_heard_again() -> None:
    house = House()
    house.joined.join("pc", "10.0.0.1", servers("a"))
    house.pass_time(SILENCE - 0.1)
    assert house.draining == set()

    house.pass_time(0.1)
    assert house.draining == {"a"}

    house.joined.join("pc", "10.0.0.1", servers("a"))
    assert house.draining == set()
    assert house.changes == 1


def test_a_machine_that_keeps_silent_for_long_is_forgotten() -> None:
    house = House()
    house.joined.join("pc", "10.0.0.1", servers("a"))
    house.pass_time(MEMORY)
    assert house.joined.servers() == {}
    assert house.changes == 2


def test_a_machine_leaves_when_nothing_is_in_flight_there() -> None:
    house = House()
    house.joined.join("pc", "10.0.0.1", servers("a"))
    house.in_flight["a"] = 2
    assert house.joined.leave("pc") == 2
    assert house.draining == {"a"}

    house.in_flight["a"] = 0
    house.pass_time(0.5)

    assert house.joined.servers() == {}


def test_a_machine_that_has_left_may_join_again() -> None:
    house = House()
    house.joined.join("pc", "10.0.0.1", servers("a"))
    house.in_flight["a"] = 1
    house.joined.leave("pc")

    house.joined.join("pc", "10.0.0.1", servers("a"))

    assert house.draining == set()


def test_who_never_joined_has_nothing_to_leave() -> None:
    assert House().joined.leave("pc") == 0


def test_a_name_belongs_to_the_machine_that_has_it_until_it_keeps_silent() -> None:
    house = House()
    house.joined.join("pc", "10.0.0.1", servers("a"))
    with pytest.raises(Taken, match="BALANCER_JOIN_NAME"):
        house.joined.join("pc", "10.0.0.2", servers("a"))
    with pytest.raises(Taken, match="a server of pc already"):
        house.joined.join("other", "10.0.0.2", servers("a"))

    house.pass_time(SILENCE)
    house.joined.join("pc", "10.0.0.2", servers("a"))

    assert house.joined.machines["pc"].address == "10.0.0.2"
    assert house.draining == set()


def test_there_is_an_end_to_how_many_may_join() -> None:
    house = House()
    with pytest.raises(Taken, match="no room"):
        house.joined.join("pc", "10.0.0.1", servers(*map(str, range(1001))))


@pytest.mark.parametrize(
    ("addr", "base"),
    [
        ("http://127.0.0.1:11434", "http://10.0.0.1:11434"),
        ("http://localhost:8080/llama", "http://10.0.0.1:8080/llama"),
        ("https://0.0.0.0", "https://10.0.0.1"),
        ("http://[::1]:8080", "http://10.0.0.1:8080"),
        ("http://gpu.local:8080", "http://gpu.local:8080"),
    ],
)
def test_a_local_address_is_that_of_the_machine(addr: str, base: str) -> None:
    (found,) = read_servers({"a": {"addr": addr}}, "10.0.0.1", SETTINGS, ()).values()
    assert found.server("a").model_base == base


def test_an_address_of_ipv6_stands_in_brackets() -> None:
    body = {"a": {"addr": "http://localhost:8080", "health_port": 18000}}
    (found,) = read_servers(body, "fd00::1", SETTINGS, ()).values()
    assert found.server("a").health_base == "http://[fd00::1]:18000"


@pytest.mark.parametrize(
    "wrong",
    [
        {"api_key_file": "/etc/shadow"},
        {"ca_file": "/etc/shadow"},
        {"forward_credentials": True},
        {"tier": 1},
        {"addr": "dns+http://llama:8080"},
        {"addr": "ftp://llama"},
        {"addr": "http://["},
        {"addr": 1},
    ],
)
def test_an_agent_has_no_say_in_what_is_not_its_own(wrong: Mapping[str, object]) -> None:
    with pytest.raises(SettingsError, match=r"^a[.:]"):
        read_servers({"a": {"addr": "http://10.0.0.1", **wrong}}, "10.0.0.1", SETTINGS, ())


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["join", "leave", "silence"]), st.sampled_from("pqr")),
        max_size=30,
    )
)
def test_whoever_was_not_heard_for_so_long_drains_and_who_was_does_not(
    steps: list[tuple[str, str]],
) -> None:
    house = House()
    heard: dict[str, float] = {}
    for step, machine in steps:
        match step:
            case "join":
                house.joined.join(machine, "10.0.0.1", servers(machine))
                heard[machine] = house.clock.now
            case "leave":
                house.in_flight[machine] = 1
                house.joined.leave(machine)
                heard.pop(machine, None)
            case _:
                house.pass_time(SILENCE / 2)
        present = {name for name, at in heard.items() if house.clock.now - at < SILENCE}
        assert house.joined.servers().keys() - house.draining == present
