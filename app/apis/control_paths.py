"""Paths of model servers that change what a server holds, loads or is, not what it generates.

With them go those that tell what other clients ask.
"""

from typing import Final, NamedTuple

from app.apis.paths import cleaned

READING: Final = ("GET", "HEAD", "OPTIONS")


class ControlPath(NamedTuple):
    """A path, and all below it where it ends with a slash."""

    path: str
    readable: bool = False
    """Whether reading it changes nothing (RFC 9110 section 9.2.1)."""


CONTROL: Final[dict[str, tuple[ControlPath, ...]]] = {
    # https://github.com/ggml-org/llama.cpp/tree/master/tools/server
    "llama.cpp": (
        ControlPath("/slots"),  # older ones tell the prompts that are at work
        ControlPath("/slots/"),
        ControlPath("/props", readable=True),
        ControlPath("/lora-adapters", readable=True),
        ControlPath("/models", readable=True),
        ControlPath("/models/"),
    ),
    # https://github.com/mostlygeek/llama-swap
    "llama-swap": (
        ControlPath("/unload"),
        ControlPath("/logs"),
        ControlPath("/logs/"),
        ControlPath("/api/events"),
        ControlPath("/upstream/"),
        ControlPath("/api/models/unload"),
        ControlPath("/api/models/unload/"),
    ),
    # https://github.com/ollama/ollama/blob/main/docs/api.md
    "ollama": (
        ControlPath("/api/create"),
        ControlPath("/api/copy"),
        ControlPath("/api/delete"),
        ControlPath("/api/pull"),
        ControlPath("/api/push"),
        ControlPath("/api/blobs/", readable=True),
    ),
    # https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
    "vllm": (
        ControlPath("/v1/load_lora_adapter"),
        ControlPath("/v1/unload_lora_adapter"),
        ControlPath("/sleep"),
        ControlPath("/wake_up"),
        ControlPath("/pause"),
        ControlPath("/resume"),
        ControlPath("/reset_prefix_cache"),
        ControlPath("/reset_mm_cache"),
        ControlPath("/reset_encoder_cache"),
        ControlPath("/start_profile"),
        ControlPath("/stop_profile"),
        ControlPath("/collective_rpc"),
        ControlPath("/scale_elastic_ep"),
    ),
    # https://lmstudio.ai/docs/developer/rest
    "lmstudio": (
        ControlPath("/api/v1/models/load"),
        ControlPath("/api/v1/models/unload"),
        ControlPath("/api/v1/models/download"),
        ControlPath("/api/v1/models/download/", readable=True),
    ),
}
"""By kind of server: its name, and the paths."""


def controls(method: str, path: str) -> bool:
    """Whether a request may change a server of any kind, however its path is spelt."""
    plain = cleaned(path).lower()
    for paths in CONTROL.values():
        for one in paths:
            below = one.path.endswith("/") and plain.startswith(one.path)
            if (below or plain == one.path) and not (one.readable and method in READING):
                return True
    return False
