"""The APIs of model servers: which requests make a model work, and in which way."""

import re
from typing import Final, Literal, NamedTuple

from app.apis.control_paths import controls
from app.apis.dialects import ANTHROPIC, OLLAMA, OLLAMA_CHAT, OPENAI, RESPONSES, Dialect

CHAT_PATH: Final = "/v1/chat/completions"
OLLAMA_CHAT_PATH: Final = "/api/chat"
RESPONSES_PATH: Final = "/v1/responses"
REALTIME_PATH: Final = "/v1/realtime"
"""A WebSocket, which names its model in the query.

https://platform.openai.com/docs/guides/realtime-websocket
"""


class Api(NamedTuple):
    """What a POST to a path does."""

    prompt: Literal["chat", "input", "plain"] | None = None
    """How the prompt is written that it leaves in a cache: as OpenAI's chats, as the input of
    its responses, as one text; None where it leaves nothing there."""
    routable: bool = True
    """Whether it names a model in a way that is understood here."""
    works: bool = True
    """Whether it makes a model work: then it holds a lease wherever it goes."""
    slot: bool = False
    """Whether llama.cpp's server lets it name the slot that it takes."""
    tokens: bool = False
    """Whether it generates or embeds text, so that its usage can be missed."""
    asks_usage: bool = False
    """Whether its streams tell their usage only where `stream_options` ask for it."""
    streams: bool = False
    """Whether the response is a stream unless the request says otherwise."""
    dialect: Dialect = OPENAI
    """In what words its errors are written, and that its stream is alive."""


APIS: Final[dict[str, Api]] = {
    # OpenAI's
    CHAT_PATH: Api("chat", slot=True, tokens=True, asks_usage=True),
    "/v1/completions": Api("plain", slot=True, tokens=True, asks_usage=True),
    RESPONSES_PATH: Api("input", slot=True, tokens=True, dialect=RESPONSES),
    "/v1/embeddings": Api(tokens=True),
    REALTIME_PATH: Api(),
    "/v1/rerank": Api(),
    "/v1/reranking": Api(),
    "/v1/audio/transcriptions": Api(),
    "/v1/audio/translations": Api(),
    "/v1/audio/speech": Api(),
    "/v1/images/edits": Api(),
    "/v1/images/generations": Api(),
    "/v1/images/variations": Api(),
    # Anthropic's
    "/v1/messages": Api("chat", slot=True, tokens=True, dialect=ANTHROPIC),
    "/v1/messages/count_tokens": Api(works=False, dialect=ANTHROPIC),
    # Ollama's
    OLLAMA_CHAT_PATH: Api("chat", tokens=True, streams=True, dialect=OLLAMA_CHAT),
    "/api/generate": Api("plain", tokens=True, streams=True, dialect=OLLAMA),
    "/api/embed": Api(tokens=True, dialect=OLLAMA),
    "/api/embeddings": Api(routable=False, dialect=OLLAMA),
    # llama.cpp's
    "/chat/completions": Api("chat", slot=True, tokens=True),
    "/completion": Api("plain", slot=True, tokens=True),
    "/completions": Api("plain", slot=True, tokens=True),
    "/embedding": Api(routable=False),
    "/embeddings": Api(routable=False),
    "/infill": Api(routable=False, tokens=True),
    "/rerank": Api(routable=False),
    "/reranking": Api(routable=False),
    # LM Studio's
    "/api/v0/chat/completions": Api(routable=False),
    "/api/v0/completions": Api(routable=False),
    "/api/v0/embeddings": Api(routable=False),
    # vLLM's
    "/classify": Api(routable=False),
    "/generative_scoring": Api(routable=False),
    "/invocations": Api(routable=False),
    "/pooling": Api(routable=False),
    "/score": Api(routable=False),
    "/v1/chat/completions/batch": Api(routable=False),
    "/v1/score": Api(routable=False),
}
"""By path; all that is known of them is said here."""

HARMLESS: Final = re.compile(
    r"(/api/show|/apply-template|/detokenize|/tokenize|/v1/messages/count_tokens"
    r"|/v1/(batches|conversations|files|messages/batches|uploads|vector_stores)(/.*)?"
    r"|/v1/responses/(input_tokens|[^/]+/cancel))"
)
"""Further paths whose POSTs make no model work."""

OTHER: Final = "other"
"""Stands for every path of which nothing is known."""

_OTHER: Final = Api(routable=False, works=False)


def may_work(path: str) -> bool:
    """Whether a POST to a cleaned path may make a model work, though nothing is known of it."""
    if path.startswith("/upstream/"):  # llama-swap's, with another of these paths behind
        return True
    return HARMLESS.fullmatch(path) is None and not controls("POST", path)


def api_of(path: str) -> Api:
    """Return what is known of a path; of any other than these, that it does nothing."""
    return APIS.get(path, _OTHER)
