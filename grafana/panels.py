"""What dashboards are made of: panels, and the JSON that Grafana reads.

A panel is a title, what it tells, and its queries; everything that panels share is said once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
SCHEMA = 41

WHERE = 'job=~"$job",instance=~"$instance"'
"""The selector that every query has."""
RATE = "[$__rate_interval]"
SOFT_MAXIMA = {"percentunit": 0.1, "reqps": 0.1, "s": 0.1, "bytes": 1024, "Bps": 1024}
"""Up to where an axis goes at least, by its unit: else a line of zeros stands at half of 100."""
TOKENS = "suffix: tok/s"
FAULTS = "upstream_error|timeout|internal_error|rejected"

EXEMPLARS = ("time_to_first_token_seconds", "request_duration_seconds", "queue_wait_seconds")

Steps = tuple[tuple[str, float | None], ...]
GOOD: Steps = (("green", None),)
FEW_ERRORS: Steps = (("green", None), ("red", 0.05))
ALL_UP: Steps = (("red", None), ("green", 1))
NOBODY_WAITS: Steps = (("green", None), ("orange", 1))
NO_ALERT: Steps = (("green", None), ("red", 1))
QUICK: Steps = (("green", None), ("orange", 30))
COOL: Steps = (("green", None), ("red", 87))
Words = Mapping[int, tuple[str, str]]
"""Words for numbers, with their colours."""

ANSWERS: Words = {0: ("down", "red"), 1: ("up", "green")}
STATES: Words = {
    0: ("idle", "green"),
    1: ("busy", "orange"),
    2: ("invalid", "red"),
    3: ("loading", "blue"),
    4: ("draining", "purple"),
    5: ("ejected", "yellow"),
    6: ("asleep", "text"),
    7: ("waking", "blue"),
}


@dataclass(frozen=True)
class Panel:
    """A panel; `queries` are expressions by legend."""

    title: str
    about: str
    queries: Mapping[str, str]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 8
    height: int = 8
    steps: Steps = GOOD
    most: float | None = None
    stacked: bool = False
    words: Words = field(default_factory=dict)
    absent: str = ""
    """Told instead of `No data`."""
    now: bool = False
    """Whether a stat is of this moment alone: what was told before would hide a silence."""
    table: tuple[str, ...] = ()
    """Columns of a table: the labels to keep."""


@dataclass(frozen=True)
class Row:
    """A titled row of panels; a collapsed one is opened by a click."""

    title: str
    panels: tuple[Panel, ...]
    collapsed: bool = False


@dataclass(frozen=True)
class Dashboard:
    """A dashboard; `variables` are labels to choose by, with the metric that has them."""

    uid: str
    title: str
    about: str
    rows: tuple[Row, ...]
    job: str = "llama-balancer"
    tells: str = "build_info"
    """The metric that each program has which the dashboard is about."""
    variables: Mapping[str, str] = field(default_factory=dict)


def metric(name: str, *labels: str) -> str:
    """Select a metric of ours."""
    return f"llama_balancer_{name}{{{','.join([WHERE, *labels])}}}"


def rate(name: str, *labels: str, by: str = "") -> str:
    """Tell how often something happens, per second."""
    return f"sum{_by(by)}(rate({metric(name, *labels)}{RATE}))"


def risen(name: str, *labels: str, over: str) -> str:
    """Tell how often something happened, within the time that its alert looks back."""
    return f"sum(increase({metric(name, *labels)}[{over}]))"


def quantile(share: float, name: str, *labels: str, by: str = "", over: str = "") -> str:
    """Tell below which value a share of a histogram's values lies; nothing where there are none."""
    whole = ", ".join(part for part in ("le", by) if part)
    buckets = metric(name + "_bucket", *labels)
    counted = f"increase({buckets}[{over}])" if over else f"rate({buckets}{RATE})"
    # Where nothing was counted it is NaN, which would be a line without a point.
    return f"(histogram_quantile({share}, sum by ({whole}) ({counted})) >= 0)"


def mean(name: str, *labels: str, by: str) -> str:
    """Tell a histogram's mean; nothing where there are no values."""
    return f"{rate(name + '_sum', *labels, by=by)} / ({rate(name + '_count', *labels, by=by)} > 0)"


def ratio(part: str, whole: str) -> str:
    """Tell a share; there is none of nothing."""
    return f"({part} or vector(0)) / ({whole} > 0)"


def or_none(query: str, *labels: str) -> str:
    """Draw a line at 0, named `none`, where there is nothing to draw."""
    nothing = "vector(0)"
    for label in labels:
        nothing = f'label_replace({nothing}, "{label}", "none", "", "")'
    return f"{query} or on() {nothing}"


def _by(label: str) -> str:
    return f" by ({label}) " if label else ""


MODEL = 'model=~"$model"'
REAL = 'model!~"none|other"'
EACH_MODEL = f"{MODEL},{REAL}"
"""For panels with a line for each model: without what stands for none, and for unknown names."""
FIRING = 'ALERTS{service="llama-balancer",alertstate="firing"}'
FIRING_SINCE = 'ALERTS_FOR_STATE{service="llama-balancer"}'
TO_MODELS = (MODEL, 'endpoint!="other"')
BALANCER = 'job="llama-balancer"'
OF_OURS = 'job=~"llama-balancer.*"'
SERVER = 'server=~"$server"'
GPU = 'gpu=~"$gpu"'
BUSY = 'state="busy"'
INVALID = 'state="invalid"'
LOADING = 'state="loading"'
DRAINING = 'state="draining"'
EJECTED = 'state="ejected"'
ASLEEP = 'state="asleep"'
WAKING = 'state="waking"'


def build(dashboard: Dashboard) -> Json:
    """Build a dashboard in Grafana's classic JSON model."""
    panels: list[Json] = []
    top = number = 0
    for row in dashboard.rows:
        number += 1
        head: Json = {
            "type": "row",
            "id": number,
            "title": row.title,
            "collapsed": row.collapsed,
            "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1},
            "panels": [],
        }
        panels.append(head)
        top += 1
        left = tallest = 0
        for panel in row.panels:
            number += 1
            if left + panel.width > WIDTH:
                left, top, tallest = 0, top + tallest, 0
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            built = {"id": number, "gridPos": place, **_panel(panel)}
            (head["panels"] if row.collapsed else panels).append(built)
            left += panel.width
            tallest = max(tallest, panel.height)
        top += tallest
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["llama-balancer"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "10s",
        "timezone": "browser",
        "time": {"from": "now-30m", "to": "now"},
        "links": [_LINK],
        "annotations": {"list": list(_annotations())},
        "templating": {"list": list(_variables(dashboard))},
        "panels": panels,
    }


_LINK: Json = {
    "type": "dashboards",
    "title": "llama-balancer",
    "tags": ["llama-balancer"],
    "asDropdown": False,
    "includeVars": False,
    "keepTime": True,
    "targetBlank": False,
    "icon": "external link",
    "tooltip": "",
    "url": "",
}


def _annotations() -> Iterable[Json]:
    up, draining = metric("server_up"), metric("server_state_changes_total", DRAINING)
    marks = {
        "Restarts": (
            "blue",
            f"time() - process_start_time_seconds{{{WHERE}}} < 60",
            "{{instance}} started",
        ),
        "Servers lost": (
            "red",
            f"increase({metric('server_state_changes_total', INVALID)}[1m]) > 0",
            "{{server}} became invalid",
        ),
        "Servers back": (
            "green",
            f"changes({up}[1m]) > 0 and {up} == 1",
            "{{server}} answers again",
        ),
        "Servers drained": (
            "orange",
            f"increase({draining}[1m]) > 0",
            "{{server}} gets no new requests",
        ),
        "Versions": (
            "purple",
            f"count by (version) ({metric('build_info')}) unless count by (version) ({metric('build_info')} offset 2m)",
            "version {{version}}",
        ),
    }
    for name, (colour, query, text) in marks.items():
        yield {
            "name": name,
            "datasource": SOURCE,
            "enable": True,
            "iconColor": colour,
            "expr": query,
            "step": "30s",
            "titleFormat": text,
        }


def _variables(dashboard: Dashboard) -> Iterable[Json]:
    yield {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "refresh": 1,
        "hide": 0,
        "current": {"text": "Prometheus", "value": "prometheus"},
    }
    tells = f"llama_balancer_{dashboard.tells}"
    job = f'label_values({tells}{{job=~"{dashboard.job or "llama-balancer.*"}"}}, job)'
    # All of them are those that are listed: a Prometheus may watch much else.
    yield _choice("job", "Job", job, every=None)
    of_job = f'label_values({tells}{{job=~"$job"}}, instance)'
    yield _choice("instance", "Instance", of_job, every=None)
    for label, of in dashboard.variables.items():
        name = "GPU" if label == "gpu" else label.capitalize()
        real = [REAL] if label == "model" else []
        yield _choice(label, name, f"label_values({metric(of, *real)}, {label})")


def _choice(name: str, label: str, query: str, every: str | None = ".+") -> Json:
    """Let some of a label's values be chosen, or all, for which `every` stands."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        **({} if every is None else {"allValue": every}),
        "hide": 0,
        "current": {"text": ["All"], "value": ["$__all"]},
        "options": [],
    }


def _panel(panel: Panel) -> Json:
    defaults: Json = {
        "unit": panel.unit,
        "thresholds": {
            "mode": "absolute",
            "steps": [{"color": colour, "value": value} for colour, value in panel.steps],
        },
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
        "mappings": [],
        "custom": _custom(panel),
    }
    if panel.kind not in ("heatmap", "table"):
        defaults["min"] = 0
    if panel.most is not None:
        defaults["max"] = panel.most
    if any("{{server}}" in legend for legend in panel.queries):
        defaults["links"] = [_to_server("${__field.labels.server}")]
    if panel.absent:
        defaults["noValue"] = panel.absent
    if panel.words:
        shown = {
            str(value): {"text": text, "color": colour, "index": value}
            for value, (text, colour) in panel.words.items()
        }
        defaults["mappings"] = [{"type": "value", "options": shown}]
    built: Json = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": _overrides(panel)},
        "options": _OPTIONS[panel.kind] | ({"graphMode": "none"} if panel.now else {}),
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": SOURCE,
                "expr": expression,
                "legendFormat": legend or "__auto",
                **({"exemplar": True} if _has_exemplars(panel, expression) else {}),
                **({"format": "heatmap"} if panel.kind == "heatmap" else {}),
                **(
                    {"format": "table", "instant": True}
                    if panel.kind == "table"
                    else {"instant": True}
                    if panel.now
                    else {"range": True}
                ),
            }
            for number, (legend, expression) in enumerate(panel.queries.items())
        ],
    }
    if panel.kind == "table":
        built["transformations"] = _columns(panel)
    return built


def _has_exemplars(panel: Panel, expression: str) -> bool:
    """Whether requests are shown as points beside a quantile: those whose ids are exported."""
    return panel.kind == "timeseries" and any(f"{name}_bucket" in expression for name in EXEMPLARS)


def _to_server(name: str) -> Json:
    """Lead from a server's name to its own board."""
    where = f"/d/llama-balancer-servers?var-server={name}&${{__url_time_range}}"
    return {"title": f"Server {name}", "url": where}


def _overrides(panel: Panel) -> list[Json]:
    if "server" not in panel.table:
        return []
    links = [_to_server("${__value.text}")]
    named = {"id": "byName", "options": "server"}
    return [{"matcher": named, "properties": [{"id": "links", "value": links}]}]


def _columns(panel: Panel) -> list[Json]:
    values = {f"Value #{chr(ord('A') + n)}": name for n, name in enumerate(panel.queries) if name}
    kept = "|".join([*panel.table, *values])
    return [
        {"id": "merge", "options": {}},
        {"id": "filterFieldsByName", "options": {"include": {"pattern": f"^({kept})$"}}},
        {
            "id": "organize",
            "options": {"renameByName": values, "indexByName": {}, "excludeByName": {}},
        },
    ]


def _custom(panel: Panel) -> Json:
    if panel.kind == "timeseries":
        return {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 25 if panel.stacked else 8,
            "showPoints": "never",
            "axisSoftMax": SOFT_MAXIMA.get(panel.unit, 1),
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if len(panel.steps) > 1 else "off"},
        }
    if panel.kind == "state-timeline":
        return {"fillOpacity": 80, "lineWidth": 0}
    return {}


_REDUCED = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_OPTIONS: dict[str, Json] = {
    "timeseries": {
        "legend": {
            "displayMode": "table",
            "placement": "bottom",
            "showLegend": True,
            "calcs": ["lastNotNull", "mean", "max"],
            "sortBy": "Max",
            "sortDesc": True,
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": _REDUCED,
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "auto",
    },
    "heatmap": {
        "calculate": False,
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "steps": 64,
            "exponent": 0.5,
            "reverse": False,
            "fill": "dark-orange",
        },
        "yAxis": {"axisPlacement": "left", "unit": "s"},
        "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
        "legend": {"show": True},
        "cellGap": 1,
        "showValue": "never",
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "rowsFrame": {"layout": "auto"},
    },
    "state-timeline": {
        "showValue": "auto",
        "rowHeight": 0.9,
        "mergeValues": True,
        "alignValue": "left",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "single", "sort": "none"},
    },
    "table": {
        "showHeader": True,
        "cellHeight": "sm",
        "footer": {"show": False, "reducer": ["sum"], "countRows": False, "fields": ""},
    },
}
