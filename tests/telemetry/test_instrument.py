import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as Reference

from app.telemetry.instrument import LONGEST_LABEL, SECONDS, Counter, Histogram, Series, label

EDGES = (0.1, 0.5, 1, 5)
values = st.lists(st.floats(0, 10) | st.sampled_from(EDGES))


def text(registry: CollectorRegistry) -> str:
    return generate_latest(registry).decode()


def without_creation(written: str) -> list[str]:
    return sorted(line for line in written.splitlines() if "_created" not in line)


@given(values)
def test_a_histogram_counts_as_the_reference_does(observed: list[float]) -> None:
    ours, reference = CollectorRegistry(), CollectorRegistry()
    series = Histogram("h", "About.", ["a"], EDGES, ours).labels("x")
    other = Reference("h", "About.", ["a"], buckets=EDGES, registry=reference).labels("x")
    for value in observed:
        series.observe(value)
        other.observe(value)

    assert without_creation(text(ours)) == without_creation(text(reference))


@given(values, values)
def test_adding_a_series_is_observing_all_its_values(
    first: list[float], second: list[float]
) -> None:
    whole, part = Series(EDGES), Series(EDGES)
    for value in first:
        whole.observe(value)
    for value in second:
        part.observe(value)
    expected = list(whole.counts)
    for value in second:
        at = next((i for i, edge in enumerate(EDGES) if value <= edge), len(EDGES))
        expected[at] += 1
    whole.add(part)

    assert whole.counts == expected


def test_a_counter_is_written_with_its_labels() -> None:
    registry = CollectorRegistry()
    count = Counter("c", "About.", ["a"], registry)
    count.labels("x").value += 2
    count.labels("x").value += 1

    assert 'c_total{a="x"} 3.0' in text(registry)


@given(st.text(st.characters(codec="utf-8"), max_size=LONGEST_LABEL // 4))
def test_a_label_of_some_length_is_kept(value: str) -> None:
    assert label(value) == value


@given(st.text(), st.text())
def test_a_label_that_is_too_long_is_cut_and_stays_told_apart(one: str, other: str) -> None:
    long = "モデル" * LONGEST_LABEL
    first, second = label(f"{long}{one}"), label(f"{long}{other}")

    assert len(first.encode()) <= LONGEST_LABEL
    assert (first == second) == (one == other)


@given(
    st.floats(-4, 5),
    st.floats(0.1, 1.2),
    st.sampled_from([0.5, 0.95, 0.99]),
    st.integers(0, 1000),
)
def test_quantiles_of_waits_are_right_within_fifteen_percent(
    middle: float, spread: float, share: float, seed: int
) -> None:
    rng, series = random.Random(seed), Series(SECONDS)
    waits = sorted(rng.lognormvariate(middle, spread) for _ in range(2000))
    for wait in waits:
        series.observe(wait)
    truth = waits[int(share * len(waits))]
    assume(0.01 <= truth <= 300)

    assert quantile(series, share) == pytest.approx(truth, rel=0.15)


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
@pytest.mark.parametrize(("least", "most"), [(0.02, 0.03), (1, 2), (9, 14), (30, 60), (150, 290)])
def test_quantiles_of_waits_that_are_spread_evenly_are_right_within_fifteen_percent(
    share: float, least: float, most: float
) -> None:
    series = Series(SECONDS)
    for part in range(1000):
        series.observe(least + (most - least) * part / 1000)

    assert quantile(series, share) == pytest.approx(least + (most - least) * share, rel=0.15)


def quantile(series: Series, share: float) -> float:
    """Estimate as Prometheus' `histogram_quantile` does."""
    wanted, below, lower = share * sum(series.counts), 0, 0.0
    for edge, count in zip(series.edges, series.counts, strict=False):
        if below + count >= wanted:
            return lower + (edge - lower) * (wanted - below) / count
        below, lower = below + count, edge
    return lower
