"""The benchmark's result, for people."""

import statistics
from collections.abc import Mapping, Sequence

from tests.bench.contenders import NGINX, OURS, VLLM_ROUTER

Figures = dict[str, float]
"""What something cost, by contender."""

FleetFigures = dict[tuple[str, int], list[float]]
"""What something cost in each round, by kind and number of servers."""

KeysFigures = dict[int, list[float]]
"""What a request cost in each round, by how many keys there are."""

COLUMNS = {
    "json": ("µs CPU per JSON request", VLLM_ROUTER.name, 0.75),
    "prompt": ("the same with 2 KB of conversation", VLLM_ROUTER.name, 0.95),
    "sse": ("µs CPU per event at 20 ms", VLLM_ROUTER.name, 1.05),
    "memory": ("KB per open stream", NGINX.name, 0.75),
}
"""For each kind: its title, the control that it is compared with, and the bar for us."""


def table(figures: Mapping[str, Figures]) -> str:
    """Write the figures as Markdown, with the ratios to the controls."""
    names = list(dict.fromkeys(name for values in figures.values() for name in values))
    titles = [f"{COLUMNS[k][0]} (× {COLUMNS[k][1]})" for k in figures]
    rows = [["", *titles]]
    for name in names:
        row = [f"**{name}**" if name == OURS.name else name]
        for kind, values in figures.items():
            row.append(_cell(values, name, COLUMNS[kind][1]))
        rows.append(row)
    rows.append(["bar", *(f"≤ {COLUMNS[kind][2]} ×" for kind in figures)])
    return _markdown(rows)


def _cell(values: Figures, name: str, control: str) -> str:
    if name not in values:
        return "–"
    ratio = f" ({values[name] / values[control]:.2f})" if control in values else ""
    return f"{values[name]:.1f}{ratio}"


def fleet_table(figures: FleetFigures) -> str:
    """Write what many servers cost, beside a few."""
    median = {key: statistics.median(values) for key, values in figures.items()}
    few, many = sorted({size for _, size in figures})
    ratio = median["prompt", many] / median["prompt", few]
    titles = ["servers", "probing them each second, % of a core", "µs CPU per request of 2 KB"]
    rows = [
        titles,
        [str(few), f"{median['rest', few]:.1f}", f"{median['prompt', few]:.1f} (1.00)"],
        [str(many), f"{median['rest', many]:.1f}", f"{median['prompt', many]:.1f} ({ratio:.2f})"],
        ["bar", "≤ 10", "≤ 1.3 ×"],
    ]
    return _markdown(rows)


def keys_table(figures: KeysFigures) -> str:
    """Write what keys cost, beside none."""
    median = {count: statistics.median(values) for count, values in figures.items()}
    rows = [["API keys", "µs CPU per JSON request"]]
    rows += [[f"{n:,}", f"{cost:.1f} ({cost / median[0]:.2f})"] for n, cost in median.items()]
    return _markdown([*rows, ["bar", "≤ 1.03 ×"]])


def guesses_table(figures: Mapping[str, float]) -> str:
    """Write how long a key takes, by how much of it is right."""
    least = min(figures.values())
    rows = [["API key", "µs to find whose it is"]]
    rows += [[name, f"{ns / 1000:.2f} ({ns / least:.2f})"] for name, ns in figures.items()]
    return _markdown([*rows, ["bar", "≤ 1.05 ×"]])


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)
