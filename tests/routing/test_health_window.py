import pytest

from app.routing.health_window import HealthWindow, Sample


def window(length: int = 5) -> HealthWindow:
    return HealthWindow(length, has_health=True)


def sample(*, busy: bool) -> Sample:
    return Sample(busy, 80.0 if busy else 3.0, 0.0)


def test_a_server_is_busy_until_its_first_sample() -> None:
    assert window().status == "busy"


def test_one_busy_sample_keeps_the_server_busy_as_long_as_it_is_in_the_window() -> None:
    w = window(length=3)
    w.add(sample(busy=True))
    for _ in range(2):
        w.add(sample(busy=False))
        assert w.status == "busy"

    w.add(sample(busy=False))

    assert w.status == "idle"


def test_a_server_without_a_health_address_is_idle_as_far_as_anybody_can_tell() -> None:
    assert HealthWindow(5, has_health=False).status == "idle"


@pytest.mark.parametrize("side", ["health", "models"])
def test_a_refused_connection_makes_the_server_invalid_at_once(side: str) -> None:
    w = window()
    w.add(sample(busy=False))

    w.failed(side, unreachable=True)  # type: ignore[arg-type]

    assert w.status == "invalid"


def test_a_late_answer_makes_the_server_invalid_only_the_third_time_in_a_row() -> None:
    w = window()
    w.add(sample(busy=False))
    w.failed("health", unreachable=False)
    w.failed("health", unreachable=False)
    assert w.healthy

    w.add(sample(busy=False))
    w.failed("health", unreachable=False)
    w.failed("health", unreachable=False)
    assert w.healthy

    w.failed("health", unreachable=False)
    assert not w.healthy


def test_a_good_health_answer_says_nothing_about_the_model_api() -> None:
    w = window()
    w.failed("models", unreachable=True)

    w.add(sample(busy=False))
    assert not w.healthy

    w.answered()
    assert not w.healthy
    w.answered()
    assert w.healthy
