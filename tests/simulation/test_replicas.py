"""What late news costs replicas that share a store, on a small fleet."""

import math

import pytest

from tests.simulation.replicas import Simulation, World

SMALL = World(servers=20, replicas=5, conversations=32)


def cached(delay: float) -> float:
    """Return the share of what could come from slots that does."""
    outcome = Simulation(SMALL, delay, seed=1).run()
    assert outcome.requests == SMALL.conversations * SMALL.turns
    return outcome.known / outcome.possible


@pytest.mark.parametrize("delay", [0.0, 0.005])
def test_news_in_time_costs_nothing(delay: float) -> None:
    assert cached(delay) >= 0.99


def test_news_that_are_late_cost_less_than_none() -> None:
    assert cached(math.inf) < 0.5 < cached(5.0) < cached(0.1)
