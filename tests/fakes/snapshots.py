"""States that the monitor page must be able to show."""

from collections.abc import Sequence
from typing import Any

NOW = "2026-11-24T10:30:20Z"
State = dict[str, Any]
Backend = dict[str, Any]


def backend(name: str, status: str = "idle", **facts: Any) -> Backend:
    busy = status == "busy"
    base = f"http://192.168.1.2{len(name) % 10}"
    return {
        "name": name,
        "base": f"{base}:18000",
        "model_base": f"{base}:8081",
        "status": status,
        "last": {
            "status": "busy" if busy else "idle",
            "gpu_util_max5s": 93.0 if busy else 4.0,
            "updated_at": "2026-11-24T10:30:19Z",
            "url": f"{base}:18000/llmhealth",
        },
        "total_inflight": 0,
        "model_inflight": {},
        "request_max": 2,
        "models": ["gpt-oss:20b", "gpt-oss:20b-2", "qwen3:8b"],
        "kind": None,
        "tier": 1,
        "weight": 1.0,
        "draining": status == "draining",
        "drained_by": ["admin"] if status == "draining" else [],
        "others_inflight": 0,
        "loaded": None,
        "slots": [],
        "prefill_tokens_per_second": None,
        "prompt_tokens": {"cache": 0, "work": 0},
        "forecasts": {"hit": 0, "miss": 0, "surprise": 0, "none": 0},
        "faults": {},
        "changed": None,
        "ejected_until": None,
        "orders_models": False,
        "pinned_models": [],
        "request_share": None,
        "starting": [],
        "context": None,
    } | facts


def slot(number: int, characters: int = 0, **facts: Any) -> State:
    return {
        "instance": "",
        "number": number,
        "busy": False,
        "others": False,
        "characters": characters,
        "unused_seconds": 30.5 if characters else None,
    } | facts


def request(number: int = 1, **facts: Any) -> State:
    """Write a request that has ended, or is under way where it has a `state`."""
    ended = {
        "number": number,
        "outcome": "success",
        "status": 200,
        "error": "",
        "tokens": {"prompt": 4200, "cached": 4096, "completion": 180, "estimated": False},
        "first_token_seconds": 1.2,
        "load_seconds": 0.0,
        "prompt_seconds": 1.196,
        "seconds": 5.7,
    }
    return {
        "id": f"id-{number}",
        "at": "2026-11-24T10:30:11Z",
        "path": "/v1/chat/completions",
        "model": "gpt-oss:20b",
        "asked_model": "",
        "stream": True,
        "client": "192.168.1.77",
        "username": None,
        "session": "",
        "server": "tower",
        "instance": "gpt-oss:20b",
        "slot": None,
        "reason": "free_instance",
        "held_seconds": 0.0,
        "considered": [],
        "expected_seconds": None,
        "expected_share": None,
        "change": None,
        "failures": [],
        "read_seconds": 0.001,
        "wait_seconds": 0.0,
        "sent_seconds": 0.004,
        **({} if "state" in facts else ended),
    } | facts


def used(client: str, model: str = "gpt-oss:20b", **facts: Any) -> State:
    return {
        "day": "2026-11-24",
        "client": client,
        "user": "",
        "model": model,
        "requests": 4,
        "failed": 0,
        "prompt_tokens": 9000,
        "cached_tokens": 8100,
        "generated_tokens": 500,
    } | facts


def state(
    *backends: Backend,
    stats: State | None = None,
    under_way: Sequence[State] = (),
    ended: Sequence[State] = (),
    usage: Sequence[State] = (),
    **snapshot: Any,
) -> State:
    names = [one["name"] for one in backends]
    return {
        "snapshot": {
            "now": NOW,
            "version": "0.1.0",
            "local": {"status": "idle", "gpu_util_max5s": 0.0, "window_seconds": 5},
            "gpu_backend": "none",
            "gpus": [],
            "backends": list(backends),
            "servers": {},
            "models": {"gpt-oss:20b.*": names, "qwen3.*": names[:1]} if names else {},
            "fallback": names[0] if names else None,
            "sticky_count": len(snapshot.get("sticky", ())),
            "sticky": [],
            "queue": {"waiting": 0, "max": 100, "by_model": {}, "oldest_wait_seconds": 0.0},
            "drain": False,
            "refused_settings": [],
            "store": None,
            "changed_prompts": [],
        }
        | snapshot,
        "stats": {
            "total_requests": 0,
            "unique_ips": 0,
            "unique_models": 0,
            "unique_usernames": 0,
            "ip_counts": {},
            "model_counts": {},
            "username_counts": {},
            "time_series": {},
            "retention_hours": 1,
            "oldest_log": None,
            "newest_log": None,
        }
        | (stats or {}),
        "requests": {"under_way": list(under_way), "ended": list(ended)},
        "usage": list(usage),
    }


def pin(key: str, model: str = "gpt-oss:20b", server: str = "tower", **facts: Any) -> State:
    return {
        "key": key,
        "ip": "192.168.1.77",
        "model": model,
        "backend": "http://192.168.1.25:18000",
        "server": server,
        "instance": model,
        "updated_at": "2026-11-24T10:29:30Z",
    } | facts


def changed_prompt(client: str, program: str, kind: str, **facts: Any) -> State:
    return {
        "client": client,
        "program": program,
        "kind": kind,
        "requests": 3,
        "tokens": 9_400,
        "seconds": 12.2,
        "message": 0,
        "character": 54,
        "advice": "Have reminders stay where they were said first, or come last.",
    } | facts


def gpu(index: int, **facts: Any) -> State:
    return {
        "index": index,
        "name": "NVIDIA GeForce RTX 4090",
        "uuid": f"GPU-{index}",
        "utilization": 87.0,
        "memory_used": 21 * 2**30,
        "memory_total": 24 * 2**30,
        "temperature": 71.0,
        "power": 322.0,
    } | facts


def traffic(names: dict[str, int]) -> State:
    series = {
        f"2026-11-24T{9 + (31 + n) // 60:02}:{(31 + n) % 60:02}:00Z": (n * 7919 % 17) + n // 6
        for n in range(60)
        if n % 11
    }
    total = sum(series.values())
    return {
        "total_requests": total,
        "ip_counts": {"192.168.1.77": total - 40, "192.168.1.30": 28, "192.168.1.5": 12},
        "model_counts": {"gpt-oss:20b": total - 95, "qwen3:8b": 80, "gpt-oss:120b-high": 15},
        "username_counts": names,
        "time_series": series,
    }


HOSTILE_NAME = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
LONG_NAME = "a-model-with-a-very-long-name-" * 10

EMPTY = state()
IDLE = state(backend("tower"), backend("workstation", request_max=None), backend("attic"))
BUSY = state(
    backend(
        "tower",
        "busy",
        total_inflight=2,
        model_inflight={"gpt-oss:20b": 1, "gpt-oss:20b-2": 1},
        kind="llama-swap",
        loaded=["gpt-oss:20b", "gpt-oss:20b-2"],
        prompt_tokens={"cache": 310_000, "work": 71_000},
        forecasts={"hit": 96, "miss": 2, "surprise": 0, "none": 31},
    ),
    backend(
        "workstation",
        "busy",
        total_inflight=1,
        model_inflight={"qwen3:8b": 1},
        kind="llamacpp",
        request_max=4,
        others_inflight=1,
        slots=[slot(0, 8_200, busy=True), slot(1, 31_000), slot(2, others=True), slot(3)],
        prefill_tokens_per_second=1843.2,
        prompt_tokens={"cache": 1_204_000, "work": 163_000},
        forecasts={"hit": 411, "miss": 3, "surprise": 2, "none": 57},
    ),
    backend("attic", request_max=None, total_inflight=1, model_inflight={"gpt-oss:20b": 1}),
    gpu_backend="nvml",
    local={"status": "busy", "gpu_util_max5s": 87.0, "window_seconds": 5},
    gpus=[gpu(0), gpu(1, utilization=12.0, memory_used=2**31, temperature=44.0, power=None)],
    sticky=[
        pin("Alice"),
        pin("太郎", server="workstation", model="qwen3:8b"),
        pin("192.168.1.30", server="attic", instance="gpt-oss:20b-2"),
    ],
    queue={
        "waiting": 3,
        "max": 100,
        "by_model": {"gpt-oss:20b": 2, "qwen3:8b": 1},
        "oldest_wait_seconds": 4.2,
    },
    under_way=[
        request(4, client="Alice", state="responding", first_token_seconds=None),
        request(5, username="太郎", model="qwen3:8b", server="", state="queued", reason=""),
    ],
    ended=[
        request(
            1,
            username="太郎",
            model="qwen3:8b",
            server="workstation",
            reason="cached_prompt",
            slot=0,
            expected_share=0.93,
            held_seconds=12.3,
            expected_seconds=2.46,
            wait_seconds=13.0,
            sent_seconds=13.0,
            considered=[
                {"server": "workstation", "read_seconds": 2.4, "others_seconds": 0.0},
                {"server": "tower", "read_seconds": 21.0, "others_seconds": 9.5},
            ],
            first_token_seconds=19.7,
            load_seconds=4.0,
            prompt_seconds=2.7,
            seconds=25.0,
        ),
        request(2, client="Alice"),
        request(
            3,
            outcome="upstream_error",
            status=502,
            error="server tower: the server closed the connection without a response",
            tokens=None,
            first_token_seconds=None,
            seconds=0.8,
            failures=[{"server": "attic", "fault": "connect"}],
        ),
    ],
    usage=[
        used("Alice", requests=3, failed=1),
        used("Alice", "qwen3:8b", cached_tokens=0, prompt_tokens=1000),
        used("Bob", "qwen3:8b", user="b", requests=1, prompt_tokens=10, cached_tokens=0),
    ],
    changed_prompts=[
        changed_prompt("Alice", "claude-cli/2.1.36", "hash", requests=41, tokens=512_000),
        changed_prompt("192.168.1.30", "", "tools", seconds=75.4, message=7),
    ],
    stats=traffic({"Alice": 120, "太郎": 64, "Bob": 22}),
)
SERVER_DOWN = state(
    backend("tower", "invalid", last=None, models=None), backend("workstation"), backend("attic")
)
STEERED = state(
    backend("tower", "draining", total_inflight=1, model_inflight={"gpt-oss:20b": 1}),
    backend("workstation", "loading", kind="llamacpp", slots=[slot(0)]),
    backend("attic", loaded=["qwen3:8b"], kind="ollama"),
    backend("cellar", "asleep", last=None),
    backend("loft", "waking", last=None),
    drain=True,
)
LONG_NAMES = state(
    backend(LONG_NAME, "busy", total_inflight=1, model_inflight={LONG_NAME: 1}, models=[LONG_NAME]),
    sticky=[pin(LONG_NAME, LONG_NAME, LONG_NAME)],
    usage=[used(LONG_NAME, LONG_NAME)],
    changed_prompts=[changed_prompt(LONG_NAME, LONG_NAME, "other")],
    ended=[
        request(
            model=LONG_NAME, client=LONG_NAME, server=LONG_NAME, error=LONG_NAME, session=LONG_NAME
        )
    ],
    models={LONG_NAME: [LONG_NAME]},
    gpus=[gpu(0, name=LONG_NAME)],
    gpu_backend="nvml",
    stats=traffic({LONG_NAME: 9}),
)
HOSTILE = state(
    backend(HOSTILE_NAME, "busy", model_inflight={"\u202egnp.exe": 1}, models=[HOSTILE_NAME]),
    sticky=[pin(HOSTILE_NAME, HOSTILE_NAME, HOSTILE_NAME, ip=HOSTILE_NAME)],
    ended=[
        request(1, username=HOSTILE_NAME, model="🦙" * 40, server=HOSTILE_NAME, error=HOSTILE_NAME),
        request(2, username="\u202eevil", session=HOSTILE_NAME, outcome="timeout", status=504),
    ],
    models={HOSTILE_NAME: [HOSTILE_NAME]},
    stats=traffic({HOSTILE_NAME: 5, "\u202eevil": 3}),
)

STATES = {
    "empty": EMPTY,
    "idle": IDLE,
    "busy": BUSY,
    "server-down": SERVER_DOWN,
    "steered": STEERED,
    "long-names": LONG_NAMES,
    "hostile": HOSTILE,
}
