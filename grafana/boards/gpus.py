"""The dashboard of all machines' GPUs."""

from grafana.panels import (
    ALL_UP,
    COOL,
    GOOD,
    GPU,
    OF_OURS,
    WHERE,
    Dashboard,
    Panel,
    Row,
    metric,
    rate,
)


def once(name: str) -> str:
    """Select a metric of each GPU: one that two programs tell of is one, where it says which."""
    which = metric(name, GPU, 'uuid!=""')
    nameless = metric(name, GPU, 'uuid=""')
    return f"max by (uuid) ({which}) or {nameless}"


GPUS = Dashboard(
    "llama-balancer-gpus",
    "llama-balancer: GPUs",
    "Every machine's GPUs: those of the balancer's own, and of all agents.",
    job="",
    tells="gpu_collector_up",
    variables={"gpu": "gpu_info"},
    rows=(
        Row(
            "Are they well?",
            (
                Panel(
                    "Machines",
                    "Share of the balancers and agents that answer Prometheus.",
                    {"": f"avg(up{{{WHERE},{OF_OURS}}})"},
                    "stat",
                    "percentunit",
                    4,
                    4,
                    ALL_UP,
                    1,
                    absent="none known",
                    now=True,
                ),
                Panel(
                    "Readable",
                    "Share of the machines with GPUs whose driver answers. Alert GpuCollectorDown.",
                    {"": f"avg({metric('gpu_collector_up')})"},
                    "stat",
                    "percentunit",
                    3,
                    4,
                    ALL_UP,
                    1,
                    absent="none told",
                    now=True,
                ),
                Panel(
                    "GPUs",
                    "GPUs that are told of.",
                    {"": f"count({once('gpu_info')})"},
                    "stat",
                    "short",
                    3,
                    4,
                    absent="none told",
                    now=True,
                ),
                Panel(
                    "Load",
                    "Mean utilisation of all GPUs.",
                    {"": f"avg({once('gpu_utilization_ratio')})"},
                    "stat",
                    "percentunit",
                    3,
                    4,
                    GOOD,
                    1,
                    absent="none told",
                    now=True,
                ),
                Panel(
                    "Fullest memory",
                    "Of all GPUs.",
                    {
                        "": f"max({metric('gpu_memory_used_bytes', GPU)} / {metric('gpu_memory_total_bytes', GPU)})"
                    },
                    "stat",
                    "percentunit",
                    4,
                    4,
                    GOOD,
                    1,
                    absent="none told",
                    now=True,
                ),
                Panel(
                    "Hottest",
                    "Of all GPUs. Alert GpuHot above 87 °C.",
                    {"": f"max({metric('gpu_temperature_celsius', GPU)})"},
                    "stat",
                    "celsius",
                    3,
                    4,
                    COOL,
                    absent="none told",
                    now=True,
                ),
                Panel(
                    "Power",
                    "Of all GPUs together.",
                    {"": f"sum({once('gpu_power_watts')})"},
                    "stat",
                    "watt",
                    4,
                    4,
                    absent="none told",
                    now=True,
                ),
            ),
        ),
        Row(
            "Each GPU",
            (
                Panel(
                    "Utilisation",
                    "Share of time that a GPU was busy.",
                    {"{{instance}}, GPU {{gpu}}": metric("gpu_utilization_ratio", GPU)},
                    unit="percentunit",
                    width=12,
                    most=1,
                ),
                Panel(
                    "Memory",
                    "Memory in use, and what there is.",
                    {
                        "{{instance}}, GPU {{gpu}}": metric("gpu_memory_used_bytes", GPU),
                        "{{instance}}, GPU {{gpu}}, all": metric("gpu_memory_total_bytes", GPU),
                    },
                    unit="bytes",
                    width=12,
                ),
                Panel(
                    "Temperature",
                    "Of the core. Alert GpuHot above 87 °C.",
                    {"{{instance}}, GPU {{gpu}}": metric("gpu_temperature_celsius", GPU)},
                    unit="celsius",
                    steps=COOL,
                ),
                Panel(
                    "Power",
                    "Drawn now.",
                    {"{{instance}}, GPU {{gpu}}": metric("gpu_power_watts", GPU)},
                    unit="watt",
                ),
                Panel(
                    "Energy",
                    "Of the last hour, in watt hours.",
                    {
                        "{{instance}}, GPU {{gpu}}": f"increase({metric('gpu_energy_joules_total', GPU)}[1h]) / 3600"
                    },
                    unit="watth",
                    absent="no GPU tells its energy",
                ),
            ),
        ),
        Row(
            "As the balancers see them",
            (
                Panel(
                    "Load that servers reported",
                    "The highest of the last five seconds, which routing goes by.",
                    {"{{server}}": f"max by (server) ({metric('server_gpu_utilization_ratio')})"},
                    unit="percentunit",
                    width=12,
                    most=1,
                    absent="no server tells its load",
                ),
                Panel(
                    "Failed readings",
                    "Per second, by reason: lost after a driver's update, no permission, library not found.",
                    {
                        "{{instance}}, {{reason}}": rate(
                            "gpu_collector_errors_total", by="instance, reason"
                        )
                    },
                    width=12,
                ),
                Panel(
                    "GPUs",
                    "What there is, and where.",
                    {"": metric("gpu_info", GPU)},
                    "table",
                    width=24,
                    table=("instance", "gpu", "name", "driver_version", "backend", "uuid"),
                ),
            ),
        ),
    ),
)
