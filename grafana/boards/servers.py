"""The dashboard that says which server needs attention."""

from grafana.panels import (
    ASLEEP,
    BUSY,
    DRAINING,
    EJECTED,
    INVALID,
    LOADING,
    REAL,
    SERVER,
    STATES,
    TOKENS,
    WAKING,
    Dashboard,
    Panel,
    Row,
    mean,
    metric,
    or_none,
    quantile,
    rate,
)

STATE = " or ".join(
    f"{number} * {metric('server_state', SERVER, state)}"
    for number, state in enumerate((BUSY, INVALID, LOADING, DRAINING, EJECTED, ASLEEP, WAKING), 1)
)

SERVERS = Dashboard(
    "llama-balancer-servers",
    "llama-balancer: servers",
    "Which server needs attention?",
    variables={"server": "server_up"},
    rows=(
        Row(
            "Which one needs attention?",
            (
                Panel(
                    "State",
                    "As each balancer sees it. Invalid, loading and draining servers get no requests; those asleep are woken for some. Busy is what the machine says of its GPUs.",
                    {"{{server}}, {{instance}}": f"max by (instance, server) ({STATE})"},
                    "state-timeline",
                    width=24,
                    words=STATES,
                    absent="no servers configured",
                ),
                Panel(
                    "Servers",
                    "Whether a server answers, what is in flight there, also as a share of its limit, and how long ago its machine told its load.",
                    {
                        "up": f"max by (instance, server) ({metric('server_up', SERVER)})",
                        "in flight": f"sum by (instance, server) ({metric('upstream_requests_in_flight', SERVER)})",
                        "limit": f"sum by (instance, server) ({metric('server_request_limit', SERVER)})",
                        "full, %": f"100 * sum by (instance, server) ({metric('upstream_requests_in_flight', SERVER)}) / sum by (instance, server) ({metric('server_request_limit', SERVER)})",
                        "told ago, s": f"time() - max by (instance, server) ({metric('server_last_seen_timestamp_seconds', SERVER)})",
                    },
                    "table",
                    width=16,
                    table=("server", "instance"),
                ),
                Panel(
                    "Servers for each pattern",
                    "Servers that may take a configured model: valid, loaded and not draining. Alert ModelUnserved at 0.",
                    {"servers": f"min by (model) ({metric('model_servers_available')})"},
                    "table",
                    table=("model",),
                    absent="no patterns configured",
                ),
            ),
        ),
        Row(
            "How much do they do?",
            (
                Panel(
                    "In flight",
                    "Open model requests, and the limits.",
                    {
                        "{{server}}": f"sum by (server) ({metric('upstream_requests_in_flight', SERVER)})",
                        "{{server}}, limit": f"sum by (server) ({metric('server_request_limit', SERVER)})",
                    },
                ),
                Panel(
                    "In flight by model",
                    "Open model requests by model.",
                    {
                        "{{server}}, {{model}}": f"sum by (server, model) ({metric('upstream_requests_in_flight', SERVER, REAL)})"
                    },
                    stacked=True,
                ),
                Panel(
                    "Requests and why",
                    "Requests per second by server and reason.",
                    {
                        "{{server}}, {{reason}}": rate(
                            "routing_decisions_total", SERVER, by="server, reason"
                        )
                    },
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Tokens generated",
                    "Per second, as the servers report them.",
                    {"{{server}}": rate("completion_tokens_total", SERVER, by="server")},
                    unit=TOKENS,
                ),
                Panel(
                    "Prompt cache",
                    "Share of the prompts' tokens that a server had in its cache.",
                    {
                        "{{server}}": f"{rate('prompt_tokens_cached_total', SERVER, by='server')} / ({rate('prompt_tokens_total', SERVER, by='server')} > 0)"
                    },
                    unit="percentunit",
                    most=1,
                ),
                Panel(
                    "Forecasts of the cache",
                    "Answers per second: what the cache was believed to hold was there (hit) or not (miss), or was there unexpectedly (surprise).",
                    {
                        "{{server}}, {{result}}": rate(
                            "prompt_cache_forecasts_total", SERVER, by="server, result"
                        )
                    },
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Prompts held",
                    "Prompts believed to be in a cache, and the slots that a server tells of.",
                    {
                        "{{server}}": f"sum by (server) ({metric('server_prompts_held', SERVER)})",
                        "{{server}}, slots": f"max by (server) ({metric('server_slots', SERVER)})",
                    },
                ),
                Panel(
                    "Expected and measured",
                    "Seconds until first tokens, per request and second: what the choice of a place expected, and what came true.",
                    {
                        "{{server}}, expected": rate(
                            "first_token_expected_seconds_total", SERVER, by="server"
                        ),
                        "{{server}}, measured": rate(
                            "first_token_measured_seconds_total", SERVER, by="server"
                        ),
                    },
                    unit="s",
                ),
                Panel(
                    "Places held",
                    "Seconds in a second that requests wait beside places held for others, and of reading again that this saves.",
                    {
                        "waited": rate("held_seconds_total"),
                        "saved": rate("held_saved_seconds_total"),
                    },
                    unit="s",
                ),
                Panel(
                    "Turns",
                    "Requests per second that took a slot, or a model's place in memory, after they had waited beside it.",
                    {"{{kind}}": rate("held_turns_total", by="kind")},
                    unit="reqps",
                ),
                Panel(
                    "Requests of others",
                    "Requests at a server that did not come through the balancer, as far as it tells.",
                    {
                        "{{server}}": f"sum by (server) ({metric('server_foreign_requests', SERVER)})"
                    },
                ),
                Panel(
                    "Left by their clients",
                    "Requests whose client has left, while the server may still be at work: they keep their place.",
                    {"{{server}}": f"sum by (server) ({metric('leases_lingering', SERVER)})"},
                ),
                Panel(
                    "Prompts read",
                    "Tokens of prompts per second of work on one, as measured at the first token of streams.",
                    {
                        "{{server}}": f"avg by (server) ({metric('server_prefill_tokens_per_second', SERVER)})"
                    },
                    width=12,
                    unit=TOKENS,
                ),
                Panel(
                    "Bytes",
                    "Bodies to and from a server.",
                    {
                        "{{server}}, sent": rate("request_body_bytes_total", SERVER, by="server"),
                        "{{server}}, answered": rate(
                            "response_body_bytes_total", SERVER, by="server"
                        ),
                    },
                    width=12,
                    unit="Bps",
                ),
            ),
        ),
        Row(
            "How quick are they?",
            (
                Panel(
                    "First byte",
                    "From sending a request to the first byte of the response: the mean.",
                    {"{{server}}": mean("time_to_first_byte_seconds", SERVER, by="server")},
                    width=12,
                    unit="s",
                ),
                Panel(
                    "Whole answers",
                    "From sending a request to the end of the response: 95 % are quicker.",
                    {
                        "{{server}}": quantile(
                            0.95, "upstream_duration_seconds", SERVER, by="server"
                        )
                    },
                    width=12,
                    unit="s",
                ),
            ),
        ),
        Row(
            "What goes wrong there?",
            (
                Panel(
                    "Responses by status",
                    "Answers per second by class of status.",
                    {
                        "{{server}}, {{code}}": rate(
                            "upstream_responses_total", SERVER, by="server, code"
                        )
                    },
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Errors",
                    "Failures per second, by kind.",
                    {
                        "{{server}}, {{reason}}": rate(
                            "upstream_errors_total", SERVER, by="server, reason"
                        )
                    },
                    unit="reqps",
                ),
                Panel(
                    "Attempts elsewhere",
                    "Requests per second that were tried at another server after a failure here.",
                    {"{{server}}, {{reason}}": rate("retries_total", SERVER, by="server, reason")},
                    unit="reqps",
                ),
                Panel(
                    "Answered by another server",
                    "Requests per second that went from one server to another.",
                    {
                        "{{from_server}} to {{to_server}}": or_none(
                            rate("failovers_total", by="from_server, to_server"),
                            *("from_server", "to_server"),
                        )
                    },
                    unit="reqps",
                ),
                Panel(
                    "Ejections",
                    "How often a server was left alone because requests failed there, in ten minutes.",
                    {
                        "{{server}}, {{reason}}": f"sum by (server, reason) (increase({metric('ejections_total', SERVER)}[10m]))"
                    },
                ),
                Panel(
                    "Changes of state",
                    "How often a server came into a state, in ten minutes: many are flapping.",
                    {
                        "{{server}}, {{state}}": f"sum by (server, state) (increase({metric('server_state_changes_total', SERVER)}[10m]))"
                    },
                ),
                Panel(
                    "Probes",
                    "Probes per second by result.",
                    {
                        "{{server}}, {{result}}": rate(
                            "health_checks_total", SERVER, by="server, result"
                        )
                    },
                    unit="reqps",
                ),
                Panel(
                    "Time of a probe",
                    "95 % of the probes are quicker.",
                    {
                        "{{server}}": quantile(
                            0.95, "health_check_duration_seconds", SERVER, by="server"
                        )
                    },
                    unit="s",
                ),
                Panel(
                    "Last news",
                    "How long ago a machine told its load; servers without an agent tell none.",
                    {
                        "{{server}}": f"time() - max by (server) ({metric('server_last_seen_timestamp_seconds', SERVER)})"
                    },
                    unit="s",
                ),
            ),
        ),
    ),
)
