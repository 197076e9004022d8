"""Which requests name a model in a way that is understood here."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from app.settings.mistakes import mistake
from app.settings.values import listed

CHAT_PATH = "/v1/chat/completions"

ROUTABLE_PATHS = (
    CHAT_PATH,
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/reranking",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/chat/completions",
    "/completion",
    "/completions",
)
"""OpenAI's API, Anthropic's messages, Ollama's, and llama.cpp's own."""


def _all(value: object) -> object:
    if isinstance(value, str) and value.strip().lower() == "all":
        return ROUTABLE_PATHS
    return listed(value)


def _routable(path: str) -> str:
    if path not in ROUTABLE_PATHS:
        raise mistake(
            f'"{path}" cannot be routed by its model (there are {", ".join(ROUTABLE_PATHS)})',
            [CHAT_PATH],
        )
    return path


RoutedPaths = Annotated[
    tuple[Annotated[str, AfterValidator(_routable)], ...], BeforeValidator(_all)
]
