"""Board of the balancers that share a store: what each has, and what that costs."""

from grafana.panels import (
    RATE,
    WHERE,
    Dashboard,
    Panel,
    Row,
    mean,
    metric,
    or_none,
    quantile,
    rate,
)

BALANCER = "{{instance}}"


def each(name: str) -> str:
    """Tell a gauge for each balancer; `none` where there is one alone."""
    return or_none(f"max by (instance) ({metric(name)})", "instance")


REPLICAS = Dashboard(
    "llama-balancer-replicas",
    "llama-balancer: replicas",
    "Balancers that share a store: does each reach it, what has each in flight, and what does it cost?",
    rows=(
        Row(
            "Are all there?",
            (
                Panel(
                    "Balancers",
                    "Balancers that respond to Prometheus.",
                    {"": f"sum(up{{{WHERE}}})"},
                    "stat",
                    width=4,
                    now=True,
                ),
                Panel(
                    "Balancers that each knows",
                    "By what it has heard from the store: who knows of fewer is cut off.",
                    {BALANCER: each("store_replicas")},
                ),
                Panel(
                    "Store",
                    "1 where a balancer reaches the store, 0 where it goes by its share of each limit. Alert StoreAway.",
                    {BALANCER: each("store_up")},
                    width=6,
                ),
                Panel(
                    "Failures of the store",
                    "What was asked of it in vain, per second.",
                    {BALANCER: or_none(rate("store_failures_total", by="instance"), "instance")},
                    width=6,
                ),
            ),
        ),
        Row(
            "What is in flight?",
            (
                Panel(
                    "In flight by balancer",
                    "Requests that each has sent to servers: the heights are alike where the one in front takes turns.",
                    {BALANCER: f"sum by (instance) ({metric('upstream_requests_in_flight')})"},
                    stacked=True,
                    width=8,
                ),
                Panel(
                    "In flight by server, of all balancers",
                    "Requests there, and those that just ask the store for a place there.",
                    {"{{server}}": f"sum by (server) ({metric('upstream_requests_in_flight')})"},
                    stacked=True,
                    width=8,
                ),
                Panel(
                    "Fullest server",
                    "What all balancers have or just ask for there, against its limit: above 100 % several want the same place, and one gets it.",
                    {
                        "{{server}}": f"topk(5, sum by (server) ({metric('upstream_requests_in_flight')}) / max by (server) ({metric('server_request_limit')} > 0))"
                    },
                    unit="percentunit",
                    width=8,
                ),
                Panel(
                    "Requests",
                    "Per second, by balancer.",
                    {BALANCER: rate("requests_total", by="instance")},
                    unit="reqps",
                    stacked=True,
                    width=8,
                ),
                Panel(
                    "Waiting",
                    "Requests in the queue of each: a queue is its own balancer's.",
                    {BALANCER: f"sum by (instance) ({metric('queue_depth')})"},
                    stacked=True,
                    width=8,
                ),
                Panel(
                    "Probes",
                    "Per second, by balancer: each server is probed by one of them.",
                    {BALANCER: rate("health_check_duration_seconds_count", by="instance")},
                    stacked=True,
                    width=8,
                ),
            ),
        ),
        Row(
            "What does sharing cost?",
            (
                Panel(
                    "Time of the store",
                    "To take a place for a request: the mean, and below which 99 % are.",
                    {
                        f"{BALANCER}, 99 %": or_none(
                            quantile(0.99, "store_seconds", by="instance"), "instance"
                        ),
                        f"{BALANCER}, mean": or_none(
                            mean("store_seconds", by="instance"), "instance"
                        ),
                    },
                    unit="s",
                    width=8,
                ),
                Panel(
                    "News",
                    "What balancers tell each other per second: where prompts and clients are, and what they learn.",
                    {
                        "{{instance}}, {{direction}}": or_none(
                            rate("store_events_total", by="instance, direction"),
                            "instance",
                            "direction",
                        )
                    },
                    width=8,
                ),
                Panel(
                    "Processor",
                    "Seconds of a core that each balancer takes in a second.",
                    {
                        BALANCER: f"sum by (instance) (rate(process_cpu_seconds_total{{{WHERE}}}{RATE}))"
                    },
                    width=8,
                ),
            ),
        ),
    ),
)
