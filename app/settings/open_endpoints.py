"""Endpoints of the balancer's own that are open to some networks, where there are API keys."""

from typing import Literal

OpenEndpoint = Literal[
    "/access-log-stats",
    "/llmhealth-explain",
    "/llmhealth-monitor",
    "/llmhealth-requests",
    "/llmhealth-snapshot",
    "/llmhealth-targets",
    "/llmhealth-usage",
    "/metrics",
]

BELOW: dict[OpenEndpoint, tuple[str, ...]] = {
    "/llmhealth-monitor": ("/llmhealth-monitor/events", "/llmhealth-usage")
}
"""What belongs to an endpoint: the page is nothing without what it asks for."""
