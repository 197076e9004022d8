from hypothesis import given
from hypothesis import strategies as st

from app.telemetry.access import MOST_CHARACTERS, MOST_KINDS, OTHER, AccessStats
from tests.fakes.clock import Clock
from tests.fakes.records import record


def asked(stats: AccessStats, ip: str, model: str, username: str | None) -> None:
    stats.finished(record(address=ip, model=model, username=username, outcome="success"))


NOON = 43_200.0  # on the first day of the epoch


def test_the_report_has_the_keys_that_scripts_read() -> None:
    clock = Clock(NOON)
    stats = AccessStats(clock)
    asked(stats, "10.0.0.1", "m", "alice")
    clock.tick(61)
    asked(stats, "10.0.0.2", "m", None)
    asked(stats, "10.0.0.2", "n", None)

    assert stats.snapshot() == {
        "total_requests": 3,
        "unique_ips": 2,
        "unique_models": 2,
        "unique_usernames": 1,
        "ip_counts": {"10.0.0.2": 2, "10.0.0.1": 1},
        "model_counts": {"m": 2, "n": 1},
        "username_counts": {"alice": 1},
        "time_series": {"1970-01-01T12:00:00Z": 1, "1970-01-01T12:01:00Z": 2},
        "retention_hours": 1,
        "oldest_log": "1970-01-01T12:00:00Z",
        "newest_log": "1970-01-01T12:01:01Z",
    }


def test_without_requests_the_report_is_empty() -> None:
    report = AccessStats(Clock(NOON)).snapshot()

    assert (report["total_requests"], report["oldest_log"], report["time_series"]) == (0, None, {})


def test_what_is_older_than_an_hour_is_forgotten() -> None:
    clock = Clock(NOON)
    stats = AccessStats(clock)
    asked(stats, "a", "m", None)
    clock.tick(59 * 60)
    assert stats.snapshot()["total_requests"] == 1
    clock.tick(60)

    assert stats.snapshot()["total_requests"] == 0


def test_a_clock_that_is_set_back_leaves_nothing_of_the_future() -> None:
    clock = Clock(NOON)
    stats = AccessStats(clock)
    asked(stats, "a", "m", None)
    clock.tick(-7_200)
    asked(stats, "a", "m", None)

    assert stats.snapshot()["total_requests"] == 1


@given(st.lists(st.tuples(st.text(), st.text(), st.none() | st.text()), max_size=600))
def test_totals_are_exact_and_memory_is_bounded(kinds: list[tuple[str, str, str | None]]) -> None:
    stats = AccessStats(Clock(NOON))
    for number, (ip, model, user) in enumerate(kinds):
        asked(stats, ip, f"{model}{number}", user)
    report = stats.snapshot()

    assert report["total_requests"] == len(kinds)
    models = report["model_counts"]
    assert isinstance(models, dict)
    assert sum(models.values()) == len(kinds)
    assert len(models) <= MOST_KINDS + 1


def test_names_are_cut_and_what_is_too_much_is_counted_together() -> None:
    stats = AccessStats(Clock(NOON))
    asked(stats, "a" * 1_000, "m" * 1_000, "u" * 1_000)
    for number in range(MOST_KINDS):
        asked(stats, "a", f"m{number}", None)
    report = stats.snapshot()

    models = report["model_counts"]
    assert isinstance(models, dict)
    assert max(map(len, models)) == MOST_CHARACTERS
    assert models[OTHER] == 1
