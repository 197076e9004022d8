import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.keys.allowance import MINUTE, Allowance


def test_no_more_than_may_be_at_once_are() -> None:
    allowance = Allowance(request_max=2)

    assert [allowance.enter(0.0) for _ in range(3)] == [None, None, 0.0]
    allowance.leave()
    assert allowance.enter(0.0) is None


def test_what_is_refused_takes_no_place() -> None:
    allowance = Allowance(request_max=1, requests_per_minute=2)

    assert [allowance.enter(0.0) for _ in range(9)] == [None, *[0.0] * 8]
    allowance.leave()
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
            allowance.leave()
        else:
            assert 0 < wait <= MINUTE
        assert sum(now - at < MINUTE for at in admitted) <= most
    assert allowance.in_flight == 0
