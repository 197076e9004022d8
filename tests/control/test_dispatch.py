"""Which requests are the balancer's own, and which are the model servers'."""

import pytest

from app.control.dispatch import Dispatch
from app.downstream.connection import ClientConnection, Exchange, Request


def owns(method: str, path: str) -> bool:
    """Whether a request is for routes like ours."""
    own = [
        ("/llmhealth", ["GET", "HEAD"]),
        ("/v1/models", ["GET"]),
        ("/llmhealth-explain", ["POST"]),
        ("/llmhealth-drain/{server:path}", ["POST"]),
    ]

    def serve(request: Request, connection: ClientConnection) -> Exchange:
        raise AssertionError("nothing is served here")

    return Dispatch(serve, serve, own).owns(method, path)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/llmhealth"),
        ("HEAD", "/llmhealth"),
        ("GET", "/v1/models"),
        ("POST", "/llmhealth-explain"),
        ("POST", "/llmhealth-drain/PC1"),
        ("POST", "/llmhealth-drain/PC/2"),
    ],
)
def test_the_methods_and_paths_of_our_routes_are_ours(method: str, path: str) -> None:
    assert owns(method, path)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/v1/models/m"),
        ("GET", "/v1/models/"),
        ("GET", "/LLMHEALTH"),
        ("POST", "/v1/models"),
        ("DELETE", "/metrics"),
        ("OPTIONS", "/llmhealth"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/llmhealth-explain"),
        ("GET", "/llmhealth-drain/PC1"),
        ("POST", "/llmhealth-explain/x"),
        ("PUT", "/llmhealth-drain/PC1"),
    ],
)
def test_everything_else_is_the_model_servers(method: str, path: str) -> None:
    assert not owns(method, path)
