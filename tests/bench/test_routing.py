"""The routing benchmark's own logic; what it measures is nobody's test."""

import asyncio
from dataclasses import replace
from pathlib import Path

from app.demo.completion import INSTANT
from tests.bench.routing.__main__ import fleet, misses, row
from tests.bench.routing.contenders import OURS, running
from tests.bench.routing.play import Result, play
from tests.bench.routing.scenarios import SCENARIOS, Scenario, conversations

TINY = Scenario(
    "tiny", "", 1, 2, turns=3, shared=True, one_address=True, think=0.01, speeds=(INSTANT,) * 2
)


def result(wait: float, **facts: object) -> Result:
    made = Result(prompt=100, cached=80, length=100, best=80, waits={"a": [wait]}, peaks=(1, 1))
    return replace(made, **facts)  # type: ignore[arg-type]


def test_a_scenario_is_the_same_talk_each_time() -> None:
    talks = [[one.ask() for one in conversations(SCENARIOS[0])] for _ in range(2)]

    assert talks[0] == talks[1]
    assert talks[0][0] != talks[0][1]


def test_an_agent_says_all_in_one_message_that_grows() -> None:
    agent = next(conversations(replace(TINY, growing=True)))
    first, second = agent.ask(), agent.ask()

    assert len(second) == 2
    assert second[1]["content"].startswith(first[1]["content"])


def test_conversations_come_from_one_address_or_many() -> None:
    many = replace(TINY, one_address=False)

    assert len({one.address for one in conversations(TINY)}) == 1
    assert len({one.address for one in conversations(many)}) == 2


def test_the_figures_stand_in_a_row() -> None:
    assert row("nginx", result(0.5, wall=2.0)) == (
        "| nginx | 0.800 | 1.00 | 0.50 s | 0.50 s | 2.0 s | 1 1 | 1.00 × |"
    )


def test_every_bar_that_is_missed_is_told() -> None:
    others = {"nginx": result(1.0)}
    bad = {
        "reuses": result(1.0, cached=70),
        "first tokens": result(1.5),
        "at once": result(1.0, peaks=(1, 2)),
        "failed": result(1.0, failures=1),
    }

    assert misses(TINY, {OURS: result(1.0), **others}) == []
    for word, ours in bad.items():
        [told] = misses(TINY, {OURS: ours, **others})
        assert word in told


def test_an_unlucky_identity_is_told_only_where_slots_do_not_suffice() -> None:
    ours = result(1.0, waits={"a": [1.0], "b": [1.0], "c": [9.0]})

    assert misses(TINY, {OURS: ours}) == []
    assert "waited" in misses(replace(TINY, conversations=3), {OURS: ours})[0]


def test_a_short_run_reuses_what_it_can(tmp_path: Path) -> None:
    with (
        fleet(TINY) as (servers, ports),
        running(OURS, "chat", ports, TINY.slots, tmp_path) as url,
    ):
        found = asyncio.run(play(url, "chat", TINY))

    assert found.failures == 0
    assert found.of_best == 1.0
    assert [server.peak for server in servers] == [1, 1]
