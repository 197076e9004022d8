"""When a server is left alone, and how it comes back."""

from hypothesis import given
from hypothesis import strategies as st

from app.routing.budget import RetryBudget
from app.routing.ejection import LONGEST, SLOW_START, UNPROVEN, UNTRIED, Ejection
from app.routing.ledger import Fault, Lease


def lease(since: float = 0.0, rest: float = 0.0) -> Lease:
    made = Lease("A", "m", model="m", client="x", reason="", since=since, let_go=lambda _: None)
    made.retry_after = rest
    return made


def fail(e: Ejection, now: float, fault: Fault = "reset", rest: float = 0.0) -> bool:
    one = lease(now, rest)
    e.booked(one, now)
    return e.failed(one, fault, now, 0.0)


def complete(e: Ejection, now: float) -> bool:
    one = lease(now)
    e.booked(one, now)
    return e.completed(one, now)


def ejected(at: float = 0.0) -> Ejection:
    e = Ejection()
    fail(e, at, "status_429")
    return e


def test_three_failures_in_a_row_eject() -> None:
    e = Ejection()

    assert [fail(e, 0.0) for _ in range(3)] == [False, False, True]
    assert e.bars(0.9)
    assert not e.bars(1.0)


def test_a_success_between_failures_ejects_nobody() -> None:
    e = Ejection()
    for _ in range(5):
        assert not fail(e, 0.0)
        assert not fail(e, 0.0)
        complete(e, 0.0)


def test_a_timeout_ejects_at_once() -> None:
    assert fail(Ejection(), 0.0, "read_timeout")


def test_one_request_is_the_trial() -> None:
    e = ejected()
    e.booked(lease(1.0), 1.0)

    assert e.bars(1.0)
    assert e.bars(100.0)


def test_a_trial_whose_client_leaves_is_followed_by_another() -> None:
    e = ejected()
    trial = lease(1.0)
    e.booked(trial, 1.0)
    e.given_up(trial)

    assert not e.bars(1.0)


def test_each_ejection_lasts_twice_as_long_up_to_a_minute() -> None:
    e = Ejection()
    now, lasted = 0.0, []
    for _ in range(8):
        fail(e, now, "status_429")
        assert e.until is not None
        lasted.append(e.until - now)
        now = e.until

    assert lasted == [1, 2, 4, 8, 16, 32, LONGEST, LONGEST]


def test_an_ejection_that_nobody_tries_is_over_after_a_while() -> None:
    e = Ejection()
    complete(e, 0.0)
    fail(e, 0.0, "status_429")
    left_alone = []
    for now in (1.0 + UNTRIED - 0.1, 1.0 + UNTRIED):
        e.lapse(now)
        left_alone.append(e.ejected)

    assert left_alone == [True, False]
    assert e.slows(in_flight=1, now=1.0 + UNTRIED)


def test_a_trial_under_way_is_waited_for() -> None:
    e = ejected()
    e.booked(lease(1.0), 1.0)
    e.lapse(1000.0)

    assert e.ejected


def test_one_failure_is_enough_after_an_ejection_that_nobody_tried() -> None:
    e = ejected()
    e.lapse(1.0 + UNTRIED)

    assert fail(e, 40.0)
    assert e.bars(41.9)


def test_a_server_that_says_when_is_not_asked_before() -> None:
    e = Ejection()
    fail(e, 0.0, "status_5xx", rest=30.0)

    assert e.bars(29.9)
    assert not e.bars(30.0)


def test_a_success_that_began_before_brings_nobody_back() -> None:
    e = Ejection()
    early = lease(0.0)
    fail(e, 5.0, "status_429")

    assert not e.completed(early, 5.5)
    assert e.ejected


def test_a_failure_that_began_before_does_not_count_twice() -> None:
    e = Ejection()
    early = lease(0.0)
    fail(e, 5.0, "status_429")

    assert not e.failed(early, "reset", 5.1, 0.0)
    assert e.until == 6.0


def test_a_server_that_comes_back_starts_slowly() -> None:
    e = ejected()

    assert complete(e, 1.0)
    assert e.slows(1, 1.0)
    complete(e, 1.0)
    assert not e.slows(1, 1.0)
    assert e.slows(2, 1.0)
    assert not e.slows(2, 2.0)
    assert not e.slows(1000, 1.0 + SLOW_START)


def test_a_server_that_has_completed_nothing_gets_few_at_once() -> None:
    e = Ejection()

    assert not e.slows(UNPROVEN - 1, 0.0)
    assert e.slows(UNPROVEN, 0.0)
    complete(e, 0.0)
    assert not e.slows(1000, 0.0)


@given(st.lists(st.tuples(st.sampled_from(["fail", "complete", "leave", "wait"]), st.booleans())))
def test_whatever_comes_a_server_is_asked_again_within_its_time(
    events: list[tuple[str, bool]],
) -> None:
    e, now = Ejection(), 0.0
    open_leases: list[Lease] = []
    for event, newest in events:
        if event == "wait":
            now += 1.0
        if not e.bars(now):
            open_leases.append(lease(now))
            e.booked(open_leases[-1], now)
        if not open_leases or event == "wait":
            continue
        one = open_leases.pop(-1 if newest else 0)
        match event:
            case "fail":
                e.failed(one, "reset", now, 1.0)
            case "complete":
                e.completed(one, now)
            case "leave":
                e.given_up(one)
    for one in open_leases:
        e.given_up(one)

    assert not e.bars(now + 1.2 * LONGEST)


def test_retries_are_a_fifth_of_requests_and_a_few() -> None:
    budget = RetryBudget()
    for _ in range(100):
        budget.earn()

    assert sum(budget.spend(0.0) for _ in range(100)) == 3 + 20
    assert sum(budget.spend(1.0) for _ in range(100)) == 3


def test_a_server_that_another_replica_leaves_alone_is_left_alone_as_long() -> None:
    e = Ejection()
    e.follow("reset", 0.0, 5.0)

    assert e.bars(4.9)
    assert not e.bars(5.0)


def test_what_another_replica_tells_does_not_shorten_an_ejection() -> None:
    e = ejected()
    e.follow("reset", 0.1, 0.2)

    assert e.bars(0.9)


def test_a_server_that_works_for_another_replica_is_back_slowly() -> None:
    e = Ejection()
    complete(e, 0.0)
    fail(e, 0.0, "status_429")
    e.restore(0.5)

    assert not e.bars(0.5)
    assert e.slows(1, 0.5)


def test_a_trial_that_is_under_way_decides_for_itself() -> None:
    e = ejected()
    e.booked(lease(1.5), 1.5)
    e.restore(1.6)

    assert e.ejected
