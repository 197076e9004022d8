"""Writes the dashboards: `python -m grafana.generate`. A test holds the files to what this writes."""

import json
from pathlib import Path

from grafana.boards.gpus import GPUS
from grafana.boards.overview import OVERVIEW
from grafana.boards.replicas import REPLICAS
from grafana.boards.servers import SERVERS
from grafana.boards.slow import SLOW
from grafana.panels import Dashboard, build

HERE = Path(__file__).parent / "dashboards"
DASHBOARDS = (OVERVIEW, SLOW, SERVERS, REPLICAS, GPUS)


def written(dashboard: Dashboard) -> str:
    """Give a dashboard's file."""
    return json.dumps(build(dashboard), indent=2, ensure_ascii=False) + "\n"


def path_of(dashboard: Dashboard) -> Path:
    """Tell where a dashboard's file is."""
    return HERE / f"{dashboard.uid.removeprefix('llama-balancer-')}.json"


if __name__ == "__main__":
    for each in DASHBOARDS:
        path_of(each).write_text(written(each), "utf-8")
