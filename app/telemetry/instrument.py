"""Families of counters and histograms, in Prometheus' sense of the words.

Not prometheus_client's: those take a lock, and a histogram a walk over its buckets, for every
value, and a stream has a value for each token. Here counting is an addition; a stream counts
for itself, and is added as a whole when it ends. prometheus_client writes them out.
"""

import hashlib
import time
from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

Labels = tuple[str, ...]

_STEPS: Final = (1, 1.2, 1.45, 1.75, 2.1, 2.5, 3, 3.6, 4.4, 5.4, 6.6, 8.1)
_DECADES: Final = (-2, -1, 0, 1, 2)
SECONDS: Final = (
    *(
        edge
        for power in _DECADES
        for edge in (round(step * 10.0**power, 4) for step in _STEPS)
        if edge <= 300
    ),
    900.0,
)
"""Edges for what people wait for: twelve a decade, from 10 ms to 300 s.

Prometheus takes the values of a bucket to be spread evenly in it. With steps of a fifth its
quantiles are right within 15 %, unless nearly all values lie within 10 % of each other.
https://prometheus.io/docs/practices/histograms/#errors-of-quantile-estimation
"""

LONGEST_EXEMPLAR: Final = 64
"""In characters. Prometheus takes no exemplar with more than 128, names included."""

LONGEST_LABEL: Final = 200
"""In bytes. Prometheus refuses a whole scrape for one label that is longer than it allows."""


def label(value: str) -> str:
    """Shorten a label's value that is too long, so that it stays distinct from others."""
    whole = value.encode(errors="replace")
    if len(whole) <= LONGEST_LABEL:
        return whole.decode()
    mark = hashlib.blake2s(whole, digest_size=4).hexdigest()
    return f"{whole[: LONGEST_LABEL - 12].decode(errors='ignore')}…{mark}"


class Count:
    """One counter; add to its value."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class Series:
    """Counts of values between edges, their sum, and a request of each count as an example."""

    __slots__ = ("counts", "due", "edges", "exemplars", "total")

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = [float(edge) for edge in edges]
        self.counts = [0] * (len(edges) + 1)
        self.total = 0.0
        self.exemplars: dict[int, Exemplar] = {}
        self.due = [True] * (len(edges) + 1)
        """Where the next request is taken as the exemplar: one a scrape is enough."""

    def observe(self, value: float, request: str = "") -> None:
        """Count a value, maybe that of the request with this id.

        A value that equals an edge lies below it, as `le` says.
        """
        at = 0
        for edge in self.edges:  # compiled, they are passed in a quarter of a bisection's time
            if value <= edge:
                break
            at += 1
        self.counts[at] += 1
        self.total += value
        if request and self.due[at] and len(request) <= LONGEST_EXEMPLAR:
            self.due[at] = False
            self.exemplars[at] = Exemplar({"request_id": request}, value, time.time())

    def add(self, other: "Series") -> None:
        """Take in what was counted elsewhere, between the same edges."""
        for at, count in enumerate(other.counts):
            self.counts[at] += count
        self.total += other.total


class Counter(Collector):
    """Counters of one name, distinguished by labels."""

    def __init__(
        self, name: str, about: str, labels: Sequence[str], registry: CollectorRegistry
    ) -> None:
        self._describe = (name, about, labels)
        self._counts: dict[Labels, Count] = {}
        registry.register(self)

    def labels(self, *values: str) -> Count:
        """Find or make the counter of some labels."""
        return self._counts.setdefault(values, Count())

    def collect(self) -> Iterable[Metric]:
        """Write the counters; may be called in another thread."""
        name, about, labels = self._describe
        family = CounterMetricFamily(name, about, labels=labels)
        for values, count in self._counts.copy().items():
            family.add_metric(values, count.value)
        yield family


class Histogram(Collector):
    """Histograms of one name, distinguished by labels."""

    def __init__(
        self,
        name: str,
        about: str,
        labels: Sequence[str],
        edges: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._describe = (name, about, labels)
        self._edges = edges
        self._names = [*(repr(float(edge)) for edge in edges), "+Inf"]
        self._series: dict[Labels, Series] = {}
        registry.register(self)

    def labels(self, *values: str) -> Series:
        """Find or make the histogram of some labels."""
        return self._series.setdefault(values, Series(self._edges))

    def collect(self) -> Iterable[Metric]:
        """Write the histograms; in another thread the sum may be newer than the counts."""
        name, about, labels = self._describe
        family = HistogramMetricFamily(name, about, labels=labels)
        for values, series in self._series.copy().items():
            below = 0
            buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
            exemplars = series.exemplars.copy()
            for at, count in enumerate(series.counts.copy()):
                below += count
                edge, exemplar = self._names[at], exemplars.get(at)
                buckets.append((edge, below) if exemplar is None else (edge, below, exemplar))
                series.due[at] = True
            family.add_metric(values, buckets, series.total)
        yield family


class Instruments:
    """Makes families whose names begin alike, in one registry."""

    def __init__(self, prefix: str, registry: CollectorRegistry) -> None:
        self._prefix = prefix
        self._registry = registry

    def counter(self, name: str, about: str, *labels: str) -> Counter:
        """Make counters; their name gets the suffix `_total`."""
        return Counter(f"{self._prefix}_{name}", about, labels, self._registry)

    def histogram(self, name: str, about: str, edges: Sequence[float], *labels: str) -> Histogram:
        """Make histograms with these edges between their buckets."""
        return Histogram(f"{self._prefix}_{name}", about, labels, edges, self._registry)
