"""What changes a server is told from what only reads or generates."""

import pytest

from app.apis.control_paths import CONTROL, controls
from app.apis.endpoints import APIS

ORDERS = {
    "llama.cpp": [
        ("POST", "/slots/0"),
        ("GET", "/slots"),
        ("GET", "/logs/stream"),
        ("POST", "/props"),
        ("POST", "/lora-adapters"),
        ("POST", "/models/load"),
        ("POST", "/models/unload"),
    ],
    "llama-swap": [
        ("GET", "/unload"),
        ("POST", "/api/models/unload/qwen"),
        ("GET", "/upstream/qwen/props"),
    ],
    "ollama": [
        ("DELETE", "/api/delete"),
        ("POST", "/api/pull"),
        ("POST", "/api/create"),
        ("POST", "/api/blobs/sha256:1"),
    ],
    "vllm": [
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/sleep"),
        ("POST", "/reset_prefix_cache"),
    ],
    "lmstudio": [("POST", "/api/v1/models/load"), ("POST", "/api/v1/models/unload")],
}
READ = [
    *("/props", "/lora-adapters", "/models", "/running", "/api/tags", "/api/ps"),
    *("/v1/models", "/api/v1/models", "/", "/health", "/metrics"),
]


@pytest.mark.parametrize("kind", CONTROL)
def test_orders_to_each_kind_of_server_are_known(kind: str) -> None:
    for method, path in ORDERS[kind]:
        assert controls(method, path), (method, path)


@pytest.mark.parametrize(
    "path", ["//sleep", "/sleep/", "/Sleep", "/api//delete///", "/v1/../sleep", "/./sleep"]
)
def test_another_spelling_does_not_help(path: str) -> None:
    assert controls("POST", path)


@pytest.mark.parametrize("path", READ)
def test_what_only_reads_is_none(path: str) -> None:
    assert not controls("GET", path)


@pytest.mark.parametrize("path", APIS)
def test_what_generates_is_none(path: str) -> None:
    assert not controls("POST", path)
