import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.keys.wrong_keys import FREE, LONGEST, MOST, TOLD_EVERY, WrongKeys


class Told:
    def __init__(self) -> None:
        self.lines: list[tuple[str, int]] = []
        self.wrong_keys = WrongKeys(lambda address, tries: self.lines.append((address, tries)))


def test_the_first_few_are_answered_at_once_and_then_one_a_second() -> None:
    wrong_keys = Told().wrong_keys

    waits = [wrong_keys.hold_back("10.0.0.1", 0.0) for _ in range(FREE + 3)]

    assert waits == [0.0] * FREE + [1.0, 2.0, 3.0]


def test_one_address_waits_for_itself_alone() -> None:
    wrong_keys = Told().wrong_keys
    for _ in range(50):
        wrong_keys.hold_back("10.0.0.1", 0.0)

    assert wrong_keys.hold_back("10.0.0.2", 0.0) == 0.0


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("2001:db8::1", "2001:db8::2:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_a_network_of_64_bits_is_one_address(one: str, other: str, alike: bool) -> None:
    wrong_keys = Told().wrong_keys
    for _ in range(50):
        wrong_keys.hold_back(one, 0.0)

    assert (wrong_keys.hold_back(other, 0.0) > 0) is alike


def test_mistakes_are_forgotten() -> None:
    wrong_keys = Told().wrong_keys
    for _ in range(1000):
        wrong_keys.hold_back("10.0.0.1", 0.0)

    assert wrong_keys.hold_back("10.0.0.1", 60.0) == 0.0


def test_an_address_is_told_of_once_a_minute_with_how_often_it_tried() -> None:
    told = Told()
    for second in range(int(TOLD_EVERY) + 1):
        told.wrong_keys.hold_back("10.0.0.1", float(second))

    assert told.lines == [("10.0.0.1", 1), ("10.0.0.1", 60)]


def test_so_many_addresses_are_remembered_and_no_more() -> None:
    wrong_keys = Told().wrong_keys
    for number in range(MOST + 100):
        wrong_keys.hold_back(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)

    assert len(wrong_keys._seen) == MOST


@given(st.lists(st.tuples(st.text(max_size=9), st.floats(0, 100, allow_nan=False))))
def test_nobody_waits_longer_than_that_whatever_the_address(
    tries: list[tuple[str, float]],
) -> None:
    wrong_keys = Told().wrong_keys
    now = 0.0
    for address, pause in tries:
        now += pause
        assert 0 <= wrong_keys.hold_back(address, now) <= LONGEST
