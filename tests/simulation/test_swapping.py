"""Two servers, each with room for one of three models."""

from hypothesis import given, settings
from hypothesis import strategies as st

from app.routing.seconds import LEAST_PATIENCE, STRETCH, WRITING
from tests.simulation.swapping import Demand, Swapped, swap

WAIT_MAX = 150.0


def bound(demand: Demand) -> float:
    """Tell how many seconds a request may wait: for others, for their end, and for the load."""
    patience = min(WAIT_MAX, max(LEAST_PATIENCE, STRETCH * (demand.load + WRITING)))
    return patience + demand.work[1] + demand.load + 3.0  # reports come each second


def play(demand: Demand, hold: float = 30.0, seed: int = 1) -> Swapped:
    return swap(demand, 2, seed, hold_max=hold, wait_max=WAIT_MAX)


def test_of_a_burst_for_three_models_each_is_loaded_once() -> None:
    burst = Demand(clients=10, requests=1, pause=(0.0, 3.0))

    assert play(burst).loads == 3
    assert play(burst, hold=0.0).loads > 9


def test_three_models_in_use_are_loaded_as_seldom_as_the_bound_allows() -> None:
    demand = Demand()
    today, seconds = play(demand, hold=0.0), play(demand)
    # One of them is always out; each time that it comes back, it is loaded.
    least = 2 + seconds.all_done / bound(demand)

    assert seconds.loads <= 1.2 * least
    assert today.loads > 10 * seconds.loads
    assert seconds.all_done < today.all_done / 2
    assert max(seconds.waits) < max(today.waits)


@settings(max_examples=25, deadline=None)
@given(
    demand=st.builds(
        Demand,
        models=st.integers(2, 4),
        clients=st.integers(1, 4),
        requests=st.integers(1, 6),
        work=st.tuples(st.floats(0.1, 1.0), st.floats(1.0, 10.0)),
        pause=st.tuples(st.floats(0.0, 1.0), st.floats(1.0, 40.0)),
        load=st.floats(1.0, 40.0),
    ),
    seed=st.integers(0, 1000),
)
def test_nobody_waits_longer_than_all_other_models_may_keep_a_server(
    demand: Demand, seed: int
) -> None:
    result = play(demand, seed=seed)

    assert result.peak <= 4
    assert max(result.waits) <= (demand.models - 1) * bound(demand)
