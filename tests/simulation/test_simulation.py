"""More conversations than slots: holding places for them keeps their prompts in the caches."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulation.__main__ import conversations
from tests.simulation.conversations import possible
from tests.simulation.run import Fleetwide, Result, quantile, run


def play(agents: int, chats: int, hold: float, ram: int = 0) -> Result:
    return run(conversations(agents, chats, seed=1), Fleetwide(ram=ram), 1, hold_max=hold)


@pytest.mark.parametrize(("ram", "cached", "gain"), [(0, 0.6, 0.25), (2000, 0.7, 0.15)])
def test_sixteen_agents_on_eight_slots_find_their_prompts(
    ram: int, cached: float, gain: float
) -> None:
    today, seconds = (play(16, 0, hold, ram) for hold in (0.0, 30.0))

    assert seconds.cached > cached
    assert seconds.cached > today.cached + gain
    assert quantile(seconds.every(), 0.5) < quantile(today.every(), 0.5) / 5
    assert seconds.all_done < today.all_done


def test_where_every_conversation_has_a_slot_nothing_is_lost() -> None:
    talk = conversations(8, 0, seed=1)
    result = run(talk, Fleetwide(), 1, hold_max=30.0)
    assert result.cached > 0.95 * possible(talk)


@pytest.mark.parametrize("hold", [0.0, 30.0])
def test_no_server_gets_more_than_its_slots(hold: float) -> None:
    assert play(6, 12, hold).peak == 2


@settings(max_examples=20, deadline=None)
@given(
    agents=st.integers(1, 8),
    chats=st.integers(0, 8),
    servers=st.integers(1, 3),
    slots=st.integers(1, 2),
    ram=st.sampled_from([0, 500, 2000]),
    hold=st.sampled_from([0.0, 5.0, 30.0]),
    seed=st.integers(0, 100),
)
def test_nobody_waits_beside_a_free_slot_for_longer_than_it_may_be_held(
    agents: int, chats: int, servers: int, slots: int, ram: int, hold: float, seed: int
) -> None:
    talk = conversations(agents, chats, seed)
    for one in talk:
        del one.requests[8:]
    result = run(talk, Fleetwide(servers, slots, ram), seed, hold_max=hold)

    for waited, reading in result.beside:
        assert waited <= (hold + reading if hold else 0.0) + 0.1
    assert result.peak <= slots
