from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, InfoMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest as reference_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from app.telemetry import exposition
from app.telemetry.instrument import Counter, Histogram

texts = st.text(st.characters(codec="utf-8"), max_size=20)
numbers = st.floats(0, 1e12) | st.integers(0, 10**12)
PLAIN, OPENMETRICS = "text/plain", "application/openmetrics-text"


def registry(about: str, value: str, number: float) -> CollectorRegistry:
    found = CollectorRegistry()
    Counter("c", about, ["a", "z"], found).labels(value, "y").value += number
    Histogram("h", about, ["z"], (0.1, 5), found).labels(value).observe(number)
    info = InfoMetricFamily("i", about)
    info.add_metric([], {"version": value})

    class Described:
        def collect(self) -> list[InfoMetricFamily]:
            return [info]

    found.register(Described())
    return found


def written(found: CollectorRegistry, kind: str) -> str:
    return exposition.write(found.collect(), kind).decode()


@given(texts, texts, numbers)
def test_text_is_written_as_the_reference_writes_it(about: str, value: str, number: float) -> None:
    found = registry(about, value, number)

    assert values(written(found, PLAIN)) == values(generate_latest(found).decode())


@given(texts, texts, numbers)
def test_openmetrics_is_written_as_the_reference_writes_it(
    about: str, value: str, number: float
) -> None:
    found = registry(about, value, number)

    reference = reference_openmetrics(found)  # type: ignore[no-untyped-call]
    assert values(written(found, OPENMETRICS)) == values(reference.decode())


def values(text: str) -> list[tuple[str, object]]:
    """Split lines into what is written exactly so, and numbers, which may be written otherwise."""
    lines = [line for line in text.split("\n") if line]
    found: list[tuple[str, object]] = []
    for line in lines:
        name, _, last = line.rpartition(" ")
        found.append((line, "") if line.startswith("#") else (name, float(last)))
    return found


def test_an_exemplar_names_the_first_request_since_the_last_scrape() -> None:
    found = CollectorRegistry()
    series = Histogram("h", "About.", ["a"], (1, 2), found).labels("x")
    series.observe(1.25, "one")
    series.observe(1.5, "two")
    [first] = exemplars(written(found, OPENMETRICS))
    series.observe(1.75, "three")
    [second] = exemplars(written(found, OPENMETRICS))

    assert first == ({"request_id": "one"}, 1.25)
    assert second == ({"request_id": "three"}, 1.75)


def test_an_id_that_is_too_long_for_prometheus_is_no_exemplar() -> None:
    found = CollectorRegistry()
    Histogram("h", "About.", ["a"], (1, 2), found).labels("x").observe(1.25, "i" * 128)

    assert exemplars(written(found, OPENMETRICS)) == []


def test_the_plain_text_has_no_exemplars() -> None:
    found = CollectorRegistry()
    Histogram("h", "About.", ["a"], (1, 2), found).labels("x").observe(1.25, "one")

    assert "one" not in written(found, PLAIN)


def test_what_is_not_a_number_is_written_as_prometheus_reads_it() -> None:
    family = CounterMetricFamily("c", "About.", labels=["a"])
    for value in (float("inf"), float("nan")):
        family.add_metric([str(value)], value)

    assert exposition.write([family], PLAIN).decode().split("\n")[2:4] == [
        'c_total{a="inf"} +Inf',
        'c_total{a="nan"} NaN',
    ]


def exemplars(text: str) -> list[tuple[dict[str, str], float]]:
    """List those that the reference reads, each with a time."""
    found = []
    for family in openmetrics(text):  # type: ignore[no-untyped-call]
        for sample in family.samples:
            if sample.exemplar is not None:
                assert sample.exemplar.timestamp
                found.append((sample.exemplar.labels, sample.exemplar.value))
    return found
