"""Of several replicas' requests for a place, that with the best claim asks first."""

from hypothesis import given
from hypothesis import strategies as st

from app.routing.ledger import Lease
from app.routing.prefix_index import PrefixIndex
from app.routing.prompt import Prompt
from app.routing.prompt_cache import Match, Occupancy, Placement, PromptCache
from app.store.courtesy import COURTESY, courtesy

seconds = st.floats(0.001, 600.0)


def lease(match: Match | None) -> Lease:
    made = Lease("A", "m", model="m", client="x", reason="", since=0.0, let_go=lambda _: None)
    if match is not None:
        cache = PromptCache(1, stale_after=60.0, index=PrefixIndex())
        placement = Placement(cache, match, cache.slots[0], 0)
        made.occupancy = Occupancy(placement, Prompt(["user\nHello"]), None)
    return made


@given(seconds, seconds, seconds)
def test_who_has_a_prompt_there_asks_before_who_has_not(
    here: float, away: float, service: float
) -> None:
    own = courtesy(lease(Match.REMEMBERED), here, service)

    assert own < courtesy(lease(Match.EVICTS), away, service)
    assert own < courtesy(lease(None), away, service)


@given(seconds, seconds, seconds)
def test_who_has_waited_for_longer_asks_before_who_has_not(
    wait: float, more: float, service: float
) -> None:
    one = lease(Match.EMPTY)

    assert courtesy(one, wait + more, service) < courtesy(one, wait, service)


@given(seconds, seconds, st.sampled_from([None, *Match]))
def test_nobody_waits_for_more_than_a_part_of_a_request(
    wait: float, service: float, match: Match | None
) -> None:
    assert courtesy(lease(match), wait, service) <= 2.2 * COURTESY * min(1.0, service)


def test_where_nobody_knows_how_long_requests_take_nobody_waits() -> None:
    assert courtesy(lease(None), 1.0, 0.0) == 0.0
