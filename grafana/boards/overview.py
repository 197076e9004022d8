"""The dashboard that says whether all is healthy, and how long people wait."""

from grafana.panels import (
    ALL_UP,
    ANSWERS,
    BALANCER,
    EACH_MODEL,
    FAULTS,
    FEW_ERRORS,
    FIRING,
    FIRING_SINCE,
    GOOD,
    MODEL,
    NO_ALERT,
    NOBODY_WAITS,
    QUICK,
    RATE,
    TO_MODELS,
    TOKENS,
    WHERE,
    Dashboard,
    Panel,
    Row,
    mean,
    metric,
    or_none,
    quantile,
    rate,
    ratio,
    risen,
)

OF_TAKERS = "on (job, instance, server)"
OPEN = metric("server_state", 'state=~"idle|busy"')
TAKERS = f"{OF_TAKERS} {OPEN} == 1"
"""The servers that take requests."""

OVERVIEW = Dashboard(
    "llama-balancer-overview",
    "llama-balancer: overview",
    "Is it healthy, and how quickly do people get their answers?",
    variables={"model": "queue_depth"},
    rows=(
        Row(
            "Is it healthy?",
            (
                Panel(
                    "Balancer",
                    "Whether the balancer answers Prometheus; of several, whether all do. Alert Down.",
                    {"": f"min(up{{{WHERE},{BALANCER}}})"},
                    "stat",
                    "short",
                    2,
                    4,
                    ALL_UP,
                    words=ANSWERS,
                    absent="none known",
                    now=True,
                ),
                Panel(
                    "Alerts",
                    "Alerts that fire now; the README says what to do about each.",
                    {"": f"count({FIRING}) or vector(0)"},
                    "stat",
                    "short",
                    2,
                    4,
                    NO_ALERT,
                    now=True,
                ),
                Panel(
                    "Servers up",
                    "Share of the configured servers that respond. Below 100 % see the dashboard of the servers.",
                    {"": f"avg({metric('server_up')})"},
                    "stat",
                    "percentunit",
                    2,
                    4,
                    ALL_UP,
                    1,
                    absent="none known",
                    now=True,
                ),
                Panel(
                    "Free places",
                    "Share of the places that are free, at servers with a limit that take requests: what the whole fleet has left.",
                    {
                        "": f"1 - sum({metric('upstream_requests_in_flight')} and {OF_TAKERS} {metric('server_request_limit')} and {TAKERS}) / sum({metric('server_request_limit')} and {TAKERS})"
                    },
                    "stat",
                    "percentunit",
                    3,
                    4,
                    GOOD,
                    1,
                    absent="no limits",
                    now=True,
                ),
                Panel(
                    "Errors",
                    "Share of model requests that failed for a fault of a server or of ours, or found no room, in five minutes. Alert ErrorRatioHigh above 5 %.",
                    {
                        "": ratio(
                            risen("requests_total", *TO_MODELS, f'outcome=~"{FAULTS}"', over="5m"),
                            risen("requests_total", *TO_MODELS, over="5m"),
                        )
                    },
                    "stat",
                    "percentunit",
                    3,
                    4,
                    FEW_ERRORS,
                    1,
                    absent="no requests lately",
                ),
                Panel(
                    "First token",
                    "Within which time half of the streams, and 95 % of them, begin, in ten minutes. Alert TimeToFirstTokenHigh above 30 s.",
                    {
                        "half": quantile(0.5, "time_to_first_token_seconds", MODEL, over="10m"),
                        "95 %": quantile(0.95, "time_to_first_token_seconds", MODEL, over="10m"),
                    },
                    "stat",
                    "s",
                    4,
                    4,
                    QUICK,
                    absent="no streams lately",
                ),
                Panel(
                    "Waiting",
                    "Requests that wait because every server that may take them is full.",
                    {"": f"sum({metric('queue_depth', MODEL)})"},
                    "stat",
                    "short",
                    2,
                    4,
                    NOBODY_WAITS,
                    now=True,
                ),
                Panel(
                    "Requests",
                    "Finished requests per second.",
                    {"": rate("requests_total", MODEL)},
                    "stat",
                    "reqps",
                    2,
                    4,
                    now=True,
                ),
                Panel(
                    "Tokens",
                    "Tokens generated per second, as the servers report them.",
                    {"": rate("completion_tokens_total", MODEL)},
                    "stat",
                    "short",
                    2,
                    4,
                    absent="none yet",
                    now=True,
                ),
                Panel(
                    "Prompt cache",
                    "Share of the prompts' tokens that servers had in their caches: what keeping clients where their cache is brings. Of the last time that somebody asked.",
                    {
                        "": ratio(
                            rate("prompt_tokens_cached_total", MODEL),
                            rate("prompt_tokens_total", MODEL),
                        )
                    },
                    "stat",
                    "percentunit",
                    2,
                    4,
                    GOOD,
                    1,
                    absent="no tokens reported yet",
                ),
            ),
        ),
        Row(
            "What fires?",
            (
                Panel(
                    "Alerts",
                    "What fires now, and for how long; docs/operations.md says what to do about each.",
                    {
                        "for, s": or_none(
                            f"(time() - {FIRING_SINCE} and ignoring (alertstate) {FIRING})",
                            "alertname",
                        )
                    },
                    "table",
                    width=24,
                    height=5,
                    table=("alertname", "severity", "instance", "server", "machine", "model"),
                ),
            ),
        ),
        Row(
            "How long do people wait?",
            (
                Panel(
                    "Time to first token",
                    "From a request's arrival to the first text, reasoning or tool call of its stream, by model.",
                    {
                        "{{model}}, 95 %": quantile(
                            0.95, "time_to_first_token_seconds", EACH_MODEL, by="model"
                        ),
                        "{{model}}, half": quantile(
                            0.5, "time_to_first_token_seconds", EACH_MODEL, by="model"
                        ),
                    },
                    unit="s",
                ),
                Panel(
                    "First tokens by time",
                    "How many streams began after how long.",
                    {
                        "{{le}}": f"sum by (le) (increase({metric('time_to_first_token_seconds_bucket', MODEL)}{RATE}))"
                    },
                    "heatmap",
                    "s",
                ),
                Panel(
                    "Whole requests",
                    "From a request's arrival to the end of its response, by model.",
                    {
                        "{{model}}, 95 %": quantile(
                            0.95, "request_duration_seconds", EACH_MODEL, by="model"
                        ),
                        "{{model}}, half": quantile(
                            0.5, "request_duration_seconds", EACH_MODEL, by="model"
                        ),
                    },
                    unit="s",
                ),
                Panel(
                    "Speed of a stream",
                    "Pieces per second while a stream runs, each mostly one token: the mean.",
                    {
                        "{{model}}": f"1 / ({mean('inter_token_seconds', EACH_MODEL, by='model')} > 0)"
                    },
                    unit=TOKENS,
                ),
                Panel(
                    "Longest pause of a stream",
                    "95 % of the streams never stall for longer.",
                    {"{{model}}": quantile(0.95, "stream_max_gap_seconds", EACH_MODEL, by="model")},
                    unit="s",
                ),
                Panel(
                    "Wait for a place",
                    "How long requests wait while every server that may take them is full. Alert QueueWaitHigh above 10 s.",
                    {
                        "{{model}}, 95 %": quantile(
                            0.95, "queue_wait_seconds", EACH_MODEL, by="model"
                        )
                    },
                    unit="s",
                ),
            ),
        ),
        Row(
            "How much is done?",
            (
                Panel(
                    "Requests by outcome",
                    "Finished requests per second. A client that leaves early is no error of a server.",
                    {"{{outcome}}": rate("requests_total", MODEL, by="outcome")},
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Requests by endpoint",
                    "Finished requests per second, by path.",
                    {"{{endpoint}}": rate("requests_total", MODEL, by="endpoint")},
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Requests by model",
                    "Finished requests per second; without names that no server lists, and requests for none.",
                    {"{{model}}": rate("requests_total", EACH_MODEL, by="model")},
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Tokens",
                    "Tokens per second, as the servers report them; cached ones are part of the prompts'.",
                    {
                        "generated": rate("completion_tokens_total", MODEL),
                        "prompts": rate("prompt_tokens_total", MODEL),
                        "prompts, cached": rate("prompt_tokens_cached_total", MODEL),
                    },
                    unit=TOKENS,
                ),
                Panel(
                    "Requests by key",
                    "Finished requests per second by API key; `none` where nobody needs one.",
                    {"{{key}}": or_none(rate("key_requests_total", by="key"), "key")},
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Tokens by key",
                    "Tokens of prompts and generated ones per second by API key; `estimated`: by lengths, since no server told them.",
                    {
                        "{{key}}": or_none(
                            rate("key_tokens_total", 'kind!="cached"', by="key"), "key"
                        ),
                        "{{key}}, estimated": or_none(
                            rate("key_tokens_estimated_total", by="key"), "key"
                        ),
                    },
                    unit=TOKENS,
                ),
                Panel(
                    "Prompts read again",
                    "Tokens per second of conversations that were read again because a text in them had changed, by its kind. docs/clients.md says what to do.",
                    {
                        "{{kind}}": or_none(
                            rate("changed_prompt_tokens_total", MODEL, by="kind"), "kind"
                        )
                    },
                    stacked=True,
                    unit=TOKENS,
                    width=6,
                ),
                Panel(
                    "Time of prompts read again",
                    "Seconds of servers' work per second in which such conversations were read.",
                    {
                        "{{kind}}": or_none(
                            rate("changed_prompt_seconds_total", MODEL, by="kind"), "kind"
                        )
                    },
                    stacked=True,
                    width=6,
                ),
                Panel(
                    "In progress",
                    "Requests being handled, waiting ones included, and those of them that are at a server.",
                    {
                        "{{endpoint}}": f"sum by (endpoint) ({metric('requests_in_flight')})",
                        "at servers": f"sum({metric('upstream_requests_in_flight', MODEL)})",
                    },
                    width=6,
                ),
                Panel(
                    "Waiting",
                    "Requests that wait for a place, by model.",
                    {"{{model}}": f"sum by (model) ({metric('queue_depth', EACH_MODEL)})"},
                    stacked=True,
                    width=6,
                ),
            ),
        ),
        Row(
            "Where do requests go?",
            (
                Panel(
                    "Why there",
                    "Requests per second of all models, by the reason of their server: `cached_prompt` went where its prompt is, `sticky` where its client was.",
                    {"{{reason}}": rate("routing_decisions_total", by="reason")},
                    unit="reqps",
                    stacked=True,
                    width=6,
                ),
                Panel(
                    "Clients that were known",
                    "What came of the look for a client's pin; `unusable` where its server was down or full.",
                    {"{{result}}": rate("sticky_lookups_total", by="result")},
                    unit="reqps",
                    stacked=True,
                    width=6,
                ),
                Panel(
                    "Prompts that changed",
                    "Requests per second whose conversation is in a slot, but with another text in it, by what changed.",
                    {"{{kind}}": or_none(rate("changed_prompts_total", MODEL, by="kind"), "kind")},
                    unit="reqps",
                    stacked=True,
                    width=6,
                ),
                Panel(
                    "Pins",
                    "Clients that are pinned to a server, and pins forgotten per second.",
                    {
                        "pins": f"sum({metric('sticky_entries')})",
                        "forgotten, {{reason}}": rate("sticky_evictions_total", by="reason"),
                    },
                    width=6,
                ),
            ),
        ),
        Row(
            "What goes wrong?",
            (
                Panel(
                    "Sent to no server",
                    "Requests per second that were turned away, and why.",
                    {
                        "{{reason}}": or_none(
                            rate("routing_rejections_total", MODEL, by="reason"), "reason"
                        )
                    },
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Clients that left",
                    "Requests per second whose client did not wait: in the queue, before the first byte, or in mid-stream.",
                    {
                        "{{phase}}": or_none(
                            rate("client_disconnects_total", MODEL, by="phase"), "phase"
                        )
                    },
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Streams without a token",
                    "Streams per second that ended before anything was generated.",
                    {
                        "{{reason}}": or_none(
                            rate("streams_without_token_total", MODEL, by="reason"), "reason"
                        )
                    },
                    unit="reqps",
                    stacked=True,
                ),
                Panel(
                    "Failed after the last attempt",
                    "Requests per second that no server could be reached for.",
                    {
                        "{{model}}": or_none(
                            rate("retries_exhausted_total", EACH_MODEL, by="model"), "model"
                        )
                    },
                    unit="reqps",
                ),
                Panel(
                    "Responses without usage",
                    "Share of responses that did not tell their tokens: so much is missing in the panels of tokens.",
                    {
                        "missing": ratio(
                            rate("usage_reports_total", MODEL, 'result="missing"'),
                            rate("usage_reports_total", MODEL),
                        )
                    },
                    unit="percentunit",
                    most=1,
                ),
                Panel(
                    "Names folded into other",
                    "Label values per second that clients made up.",
                    {"{{label}}": rate("label_values_dropped_total", by="label")},
                    unit="reqps",
                ),
            ),
        ),
        Row(
            "The balancer itself",
            (
                Panel(
                    "Own time",
                    "The balancer's own time before a request is sent, connecting included and the queue excluded.",
                    {
                        "99 %": quantile(0.99, "overhead_seconds"),
                        "half": quantile(0.5, "overhead_seconds"),
                    },
                    unit="s",
                ),
                Panel(
                    "Lag of the event loop",
                    "How late the balancer comes to what is due. Alert EventLoopBlocked above 0.25 s.",
                    {"99 %, {{instance}}": quantile(0.99, "event_loop_lag_seconds", by="instance")},
                    unit="s",
                ),
                Panel(
                    "Processor",
                    "Cores in use; the balancer works on one.",
                    {
                        "{{instance}}": f"sum by (instance) (rate(process_cpu_seconds_total{{{WHERE}}}{RATE}))"
                    },
                ),
                Panel(
                    "Memory",
                    "Resident memory of the process; Linux only.",
                    {
                        "{{instance}}": f"sum by (instance) (process_resident_memory_bytes{{{WHERE}}})"
                    },
                    unit="bytes",
                ),
                Panel(
                    "Open files",
                    "Sockets and files against what the system allows; Linux only.",
                    {
                        "{{instance}}": f"sum by (instance) (process_open_fds{{{WHERE}}}) / sum by (instance) (process_max_fds{{{WHERE}}})"
                    },
                    unit="percentunit",
                ),
                Panel(
                    "Warnings and errors",
                    "Lines logged per second that tell of trouble, and lines dropped as nobody read the log.",
                    {
                        "{{level}}": rate("logged_messages_total", by="level"),
                        "dropped": rate("log_lines_dropped_total"),
                    },
                ),
                Panel(
                    "Failed rounds",
                    "Rounds of periodic tasks per second that an exception ended: each is a fault of ours, logged as task.failed.",
                    {"{{task}}": rate("task_failures_total", by="task")},
                ),
                Panel(
                    "Settings taken in",
                    "1 where the settings were taken in when they were read last, 0 where they were refused. Alert ConfigReloadFailed.",
                    {"{{instance}}": metric("config_last_reload_successful")},
                ),
                Panel(
                    "Age of the settings",
                    "Since when the balancer goes by the present settings.",
                    {
                        "{{instance}}": f"time() - {metric('config_last_reload_success_timestamp_seconds')}"
                    },
                    unit="s",
                ),
                Panel(
                    "Versions",
                    "What runs where.",
                    {"": metric("build_info")},
                    "table",
                    width=24,
                    height=5,
                    table=("instance", "version", "revision", "python_version"),
                ),
            ),
            collapsed=True,
        ),
    ),
)
