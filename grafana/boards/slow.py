"""The dashboard that says where the time of slow requests went."""

from grafana.panels import (
    EACH_MODEL,
    MODEL,
    TOKENS,
    Dashboard,
    Panel,
    Row,
    metric,
    quantile,
    rate,
    risen,
)

SPENT = "request_seconds_total"
SHARE = f"sum by (phase) (increase({metric(SPENT, MODEL)}[10m])) / on () group_left () ({risen(SPENT, MODEL, over='10m')} > 0)"
EACH = f"{rate(SPENT, MODEL, by='phase')} / on () group_left () ({rate('queue_wait_seconds_count', MODEL)} > 0)"

SLOW = Dashboard(
    "llama-balancer-slow",
    "llama-balancer: slow requests",
    "Where did the time go: to the queue, to loading the model, to reading the prompt, to the answer?",
    variables={"model": "queue_depth"},
    rows=(
        Row(
            "Where did the time go?",
            (
                Panel(
                    "Share of the time",
                    "Of all seconds that model requests took in ten minutes. Without a first token, reading counts as the answer's, unless the server tells.",
                    {"{{phase}}": SHARE},
                    "stat",
                    "percentunit",
                    6,
                    8,
                    most=1,
                    absent="no requests lately",
                    now=True,
                ),
                Panel(
                    "Seconds of a request",
                    "How long requests take on average, by what their time goes to.",
                    {"{{phase}}": EACH},
                    unit="s",
                    width=9,
                    stacked=True,
                ),
                Panel(
                    "Seconds by model",
                    "Seconds in a second that requests spend, by model and by what they go to: the largest is where to begin.",
                    {"{{model}}, {{phase}}": rate(SPENT, EACH_MODEL, by="model, phase")},
                    unit="s",
                    width=9,
                    stacked=True,
                ),
            ),
        ),
        Row(
            "How slow are the slow ones?",
            (
                Panel(
                    "Queue",
                    "One request in twenty, and one in a hundred, waits longer for a place. The points are requests: their ids lead to their rows on the page.",
                    {
                        "95 %": quantile(0.95, "queue_wait_seconds", MODEL),
                        "99 %": quantile(0.99, "queue_wait_seconds", MODEL),
                    },
                    unit="s",
                ),
                Panel(
                    "First token",
                    "One stream in twenty, and one in a hundred, begins later. The points are requests.",
                    {
                        "95 %": quantile(0.95, "time_to_first_token_seconds", MODEL),
                        "99 %": quantile(0.99, "time_to_first_token_seconds", MODEL),
                    },
                    unit="s",
                ),
                Panel(
                    "Whole requests",
                    "One request in twenty, and one in a hundred, takes longer. The points are requests.",
                    {
                        "95 %": quantile(0.95, "request_duration_seconds", MODEL),
                        "99 %": quantile(0.99, "request_duration_seconds", MODEL),
                    },
                    unit="s",
                ),
            ),
        ),
        Row(
            "Why?",
            (
                Panel(
                    "Prompts",
                    "Tokens of a request's prompt, cached ones included: half of them have less, 95 % have less.",
                    {
                        "half": quantile(0.5, "request_prompt_tokens", MODEL),
                        "95 %": quantile(0.95, "request_prompt_tokens", MODEL),
                    },
                ),
                Panel(
                    "Prompts that were read",
                    "Tokens per second of prompts that were in no cache, by server.",
                    {
                        "{{server}}": f"{rate('prompt_tokens_total', MODEL, by='server')} - {rate('prompt_tokens_cached_total', MODEL, by='server')}"
                    },
                    unit=TOKENS,
                    stacked=True,
                ),
                Panel(
                    "Speed of reading",
                    "Tokens of prompts per second of work on one, as measured at the first token of streams.",
                    {
                        "{{server}}": f"avg by (server) ({metric('server_prefill_tokens_per_second')})"
                    },
                    unit=TOKENS,
                ),
                Panel(
                    "Answers",
                    "Generated tokens of a request: half of them have less, 95 % have less.",
                    {
                        "half": quantile(0.5, "request_completion_tokens", MODEL),
                        "95 %": quantile(0.95, "request_completion_tokens", MODEL),
                    },
                ),
                Panel(
                    "Waiting",
                    "Requests in the queue, by model.",
                    {"{{model}}": f"sum by (model) ({metric('queue_depth', EACH_MODEL)})"},
                    stacked=True,
                ),
                Panel(
                    "Servers that are full",
                    "Requests in flight as a share of the limit.",
                    {
                        "{{server}}": f"sum by (server) ({metric('upstream_requests_in_flight')}) / sum by (server) ({metric('server_request_limit')})"
                    },
                    unit="percentunit",
                    most=1,
                ),
            ),
        ),
    ),
)
