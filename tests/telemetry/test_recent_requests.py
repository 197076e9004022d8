from app.telemetry.recent_requests import MOST, MOST_IN_WINDOW, WINDOW, RecentRequests
from tests.fakes.records import record


def ended(recent: RecentRequests, at: float, outcome: str = "success", model: str = "m") -> None:
    recent.finished(record(at, model=model, ended=at, outcome=outcome))


def test_the_last_ones_are_remembered_by_numbers_that_count_up() -> None:
    recent = RecentRequests()
    for number in range(MOST + 100):
        ended(recent, float(number))

    kept = recent.after(0)
    assert [number for number, _ in kept] == [*range(101, MOST + 101)]
    assert [one.ended for _, one in kept] == [*map(float, range(100, MOST + 100))]
    assert [number for number, _ in recent.after(MOST + 98)] == [MOST + 99, MOST + 100]


def test_requests_without_a_model_are_not_remembered() -> None:
    recent = RecentRequests()
    ended(recent, 1.0, model="")

    assert (recent.count, recent.after(0)) == (0, [])


def test_of_very_many_at_once_those_that_failed_are_remembered_and_some_others() -> None:
    recent = RecentRequests()
    for number in range(3 * MOST_IN_WINDOW):
        ended(recent, WINDOW * number / (3 * MOST_IN_WINDOW))
    for _ in range(5):
        ended(recent, 0.99 * WINDOW, "timeout")

    outcomes = [one.outcome for _, one in recent.after(0)]
    assert outcomes == ["success"] * MOST_IN_WINDOW + ["timeout"] * 5

    ended(recent, 2 * WINDOW)
    assert recent.count == MOST_IN_WINDOW + 6
