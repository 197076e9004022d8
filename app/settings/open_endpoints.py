"""Endpoints of the balancer's own that are open to some networks, where there are API keys."""

from typing import Literal

OpenEndpoint = Literal[
    "/access-log-stats",
    "/llmhealth-explain",
    "/llmhealth-monitor",
    "/llmhealth-snapshot",
    "/llmhealth-targets",
    "/metrics",
]

BELOW: dict[OpenEndpoint, tuple[str, ...]] = {"/llmhealth-monitor": ("/llmhealth-monitor/events",)}
"""What belongs to an endpoint: the page is nothing without its stream."""
