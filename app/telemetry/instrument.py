"""Families of counters and histograms, in Prometheus' sense of the words.

Not prometheus_client's: those take a lock, and a histogram a walk over its buckets, for every
value, and a stream has a value for each token. Here counting is an addition; a stream counts
for itself, and is added as a whole when it ends. prometheus_client writes them out.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

Labels = tuple[str, ...]

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
    """Counts of values between edges, and their sum."""

    __slots__ = ("counts", "edges", "total")

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = [float(edge) for edge in edges]
        self.counts = [0] * (len(edges) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value; one that equals an edge lies below it, as `le` says."""
        at = 0
        for edge in self.edges:  # compiled, they are passed in a quarter of a bisection's time
            if value <= edge:
                break
            at += 1
        self.counts[at] += 1
        self.total += value

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
            buckets = []
            for edge, count in zip(self._names, series.counts.copy(), strict=True):
                below += count
                buckets.append((edge, below))
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
