"""Where servers read one prompt after another, requests go where less is ahead of them."""

from statistics import mean

from tests.simulation.__main__ import conversations
from tests.simulation.batching import batch
from tests.simulation.run import quantile


def test_chats_do_not_wait_behind_the_long_prompts_of_agents() -> None:
    today, seconds = (
        [batch(conversations(12, 40, seed), 4, 16_000, seed, hold_max=hold) for seed in (1, 2)]
        for hold in (0.0, 30.0)
    )

    waits = [
        mean(quantile(result.first["chat"], 0.95) for result in results)
        for results in (today, seconds)
    ]
    cached = [mean(result.cached for result in results) for results in (today, seconds)]
    assert waits[1] < 0.7 * waits[0]
    assert cached[1] > cached[0] - 0.03
