"""The benchmark's result, for people."""

from collections.abc import Mapping

from tests.bench.contenders import NGINX, OURS, UVICORN

Figures = dict[str, float]
"""What something cost, by contender."""

COLUMNS = {
    "json": ("µs CPU per JSON request", UVICORN.name, 2.8),
    "prompt": ("the same with 2 KB of conversation", UVICORN.name, 2.8),
    "sse": ("µs CPU per event at 20 ms", NGINX.name, 1.5),
    "memory": ("KB per open stream", NGINX.name, 1.0),
}
"""For each kind: its title, the control that it is compared with, and the bar for us."""


def table(figures: Mapping[str, Figures]) -> str:
    """Write the figures as Markdown, with the ratios to the controls."""
    names = list(dict.fromkeys(name for values in figures.values() for name in values))
    titles = [f"{COLUMNS[k][0]} (× {COLUMNS[k][1].split(',')[0]})" for k in figures]
    rows = [["", *titles]]
    for name in names:
        row = [f"**{name}**" if name == OURS.name else name]
        for kind, values in figures.items():
            row.append(_cell(values, name, COLUMNS[kind][1]))
        rows.append(row)
    rows.append(["bar", *(f"≤ {COLUMNS[kind][2]} ×" for kind in figures)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---|" + "---|" * len(figures))
    return "\n".join(lines)


def _cell(values: Figures, name: str, control: str) -> str:
    if name not in values:
        return "–"
    ratio = f" ({values[name] / values[control]:.2f})" if control in values else ""
    return f"{values[name]:.1f}{ratio}"
