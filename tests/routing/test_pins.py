from app.routing.pins import Pin, Pins

HERE = "10.0.0.1"


def pin(at: float, server: str = "A", address: str = HERE) -> Pin:
    return Pin(server, "m", address, at)


def test_a_pin_lives_its_time_from_the_last_use() -> None:
    sticky = Pins(ttl=180)
    sticky.put("alice", "m", pin(0))
    sticky.put("alice", "m", pin(100))

    found = sticky.find(HERE, "alice", "m", 279.9)
    assert found is not None
    assert found.at == 100
    assert sticky.find(HERE, "alice", "m", 280) is None


def test_looking_a_pin_up_does_not_prolong_it() -> None:
    sticky = Pins(ttl=180)
    sticky.put("alice", "m", pin(0))

    assert sticky.find(HERE, "alice", "m", 179) is not None
    assert sticky.find(HERE, "alice", "m", 181) is None


def test_pins_are_apart_by_client_and_by_model() -> None:
    sticky = Pins(ttl=180)
    sticky.put("alice", "m", pin(0, "A"))
    sticky.put("alice", "n", pin(0, "B"))
    sticky.put("bob", "m", pin(0, "C"))

    found = [sticky.find(HERE, *key, 1) for key in [("alice", "m"), ("alice", "n"), ("bob", "m")]]

    assert [p.server for p in found if p] == ["A", "B", "C"]


def test_a_name_that_comes_from_two_addresses_has_two_pins() -> None:
    sticky = Pins(ttl=180)
    sticky.put("alice", "m", pin(0, "A"))
    sticky.put("alice", "m", pin(0, "B", "10.0.0.2"))

    found = [sticky.find(address, "alice", "m", 1) for address in (HERE, "10.0.0.2")]

    assert [p.server for p in found if p] == ["A", "B"]


def test_expired_pins_are_forgotten_without_being_looked_up() -> None:
    sticky = Pins(ttl=180)
    for n in range(100):
        sticky.put(f"client-{n}", "m", pin(0))
    sticky.put("alice", "m", pin(200))

    assert [client for client, _, _ in sticky.items(200)] == ["alice"]
    assert len(sticky._pins) == 1


def test_the_table_is_bounded_and_drops_the_pin_unused_for_longest() -> None:
    sticky = Pins(ttl=180, capacity=2)
    for at, client in enumerate(["alice", "bob", "alice", "carol"]):
        sticky.put(client, "m", pin(at))

    assert [client for client, _, _ in sticky.items(4)] == ["alice", "carol"]


def test_a_pin_refreshed_in_short_steps_outlives_one_that_is_not() -> None:
    sticky = Pins(ttl=180, capacity=2)
    sticky.put("alice", "m", pin(0))
    sticky.put("bob", "m", pin(0.1))
    for step in range(1, 30):
        sticky.put("alice", "m", pin(step / 10))

    sticky.put("carol", "m", pin(3))

    assert [client for client, _, _ in sticky.items(3)] == ["alice", "carol"]
