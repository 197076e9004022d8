"""More conversations than slots: holding places for them keeps their prompts in the caches."""

import pytest

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
