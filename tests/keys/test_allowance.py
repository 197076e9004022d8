import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.keys.allowance import MINUTE, Allowance, Spent


def test_no_more_than_may_be_at_once_are() -> None:
    allowance = Allowance(request_max=2)

    assert [allowance.enter(0.0) for _ in range(3)] == [None, None, 0.0]
    allowance.leave(0.0)
    assert allowance.enter(0.0) is None


def test_what_is_refused_takes_no_place() -> None:
    allowance = Allowance(request_max=1, requests_per_minute=2)

    assert [allowance.enter(0.0) for _ in range(9)] == [None, *[0.0] * 8]
    allowance.leave(0.0)
    assert allowance.enter(0.0) is None


def test_a_request_beyond_a_minutes_is_told_when_it_may_come_again() -> None:
    allowance = Allowance(requests_per_minute=1)
    allowance.enter(10.0)

    assert allowance.enter(25.0) == pytest.approx(45.0)
    assert allowance.enter(10.0 + MINUTE) is None


def test_without_limits_everything_is_admitted() -> None:
    allowance = Allowance()

    assert {allowance.enter(0.0) for _ in range(100)} == {None}


@given(
    st.integers(1, 5),
    st.lists(st.floats(0, 20, allow_nan=False), max_size=60),
)
def test_no_minute_has_more_than_may_be(most: int, pauses: list[float]) -> None:
    allowance = Allowance(requests_per_minute=most)
    now, admitted = 0.0, []
    for pause in pauses:
        now += pause
        wait = allowance.enter(now)
        if wait is None:
            admitted.append(now)
            allowance.leave(0.0)
        else:
            assert 0 < wait <= MINUTE
        assert sum(now - at < MINUTE for at in admitted) <= most
    assert allowance.in_flight == 0


def test_a_request_is_admitted_while_tokens_are_left() -> None:
    allowance = Allowance(tokens_per_minute=100)

    for at in (0.0, 10.0, 20.0):
        assert allowance.enter(at) is None
        allowance.leave(at, used=40)

    assert allowance.enter(21.0) == pytest.approx(MINUTE - 21.0)
    assert allowance.enter(MINUTE) is None


def test_tokens_of_prompts_in_flight_count() -> None:
    allowance = Allowance(tokens_per_minute=100)

    assert [allowance.enter(0.0, 60) for _ in range(3)] == [None, None, 0.0]
    allowance.leave(1.0, 60, 10)
    assert allowance.enter(1.0, 60) is None


def test_one_is_told_to_wait_until_all_its_limits_allow_it() -> None:
    allowance = Allowance(requests_per_minute=1, tokens_per_minute=10)
    allowance.enter(0.0)
    allowance.leave(30.0, used=10)

    assert allowance.enter(40.0) == pytest.approx(50.0)


@given(
    st.integers(1, 200),
    st.lists(st.tuples(st.floats(0, 20, allow_nan=False), st.integers(0, 90)), max_size=60),
)
def test_who_waits_as_long_as_told_is_admitted(
    most: int, requests: list[tuple[float, int]]
) -> None:
    allowance = Allowance(tokens_per_minute=most)
    now = 0.0
    for pause, used in requests:
        now += pause
        wait = allowance.enter(now)
        if wait is not None:
            assert 0 < wait <= MINUTE
            now += wait + 1e-6
            assert allowance.enter(now) is None
        allowance.leave(now, used=used)


def test_what_is_in_flight_at_other_replicas_counts() -> None:
    allowance = Allowance(request_max=3)
    allowance.others = Spent(2, 0, 0)

    assert [allowance.enter(0.0), allowance.enter(0.0)] == [None, 0.0]


def test_what_was_used_at_other_replicas_counts() -> None:
    allowance = Allowance(requests_per_minute=3, tokens_per_minute=100)
    allowance.others = Spent(0, 2, 0)
    first = allowance.enter(0.0)
    second = allowance.enter(0.0)
    allowance.others = Spent(0, 0, 100)

    assert first is None
    assert second is not None
    assert allowance.enter(0.0) is not None


def test_what_is_told_to_others_is_of_the_last_minute() -> None:
    allowance = Allowance(requests_per_minute=9, tokens_per_minute=1000)
    allowance.enter(0.0, tokens=50)
    allowance.leave(1.0, tokens=50, used=70)
    allowance.enter(30.0, tokens=20)

    assert allowance.spent(30.0) == Spent(1, 2, 90)
    assert allowance.spent(62.0) == Spent(1, 1, 20)
