"""What servers say of a prompt that is too long for them."""

import re
from dataclasses import dataclass
from typing import Final

import orjson

STATUSES: Final = frozenset({400, 413, 422})
"""With one of these a server says it."""

KIND: Final = "context_length_exceeded"
"""OpenAI's word for it, which clients know that compact their conversations."""


@dataclass(frozen=True, slots=True)
class Overflow:
    """A prompt and the context that it does not fit into, in tokens; 0 where that is not said."""

    tokens: int
    context: int


def overflow(body: bytes) -> Overflow | None:
    """Read an error's body; None where it says something else.

    llama.cpp has a type and two numbers for it, others say it in words:
    https://github.com/ggml-org/llama.cpp/tree/master/tools/server,
    https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
    """
    if b"context" not in body and b"maximum model length" not in body:
        return None
    try:
        told = orjson.loads(body)
    except ValueError:
        return None
    error = told.get("error", told) if isinstance(told, dict) else None
    if isinstance(error, str):
        return _in_words(error)
    if not isinstance(error, dict):
        return None
    if error.get("type") == "exceed_context_size_error":
        return Overflow(_number(error.get("n_prompt_tokens")), _number(error.get("n_ctx")))
    message = error.get("message")
    return _in_words(message) if isinstance(message, str) else None


_WORDS: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"maximum context length is (?P<context>\d+) tokens(?:\D+(?P<tokens>\d+))?",
        r"\(length (?P<tokens>\d+)\) is longer than the maximum model length of (?P<context>\d+)",
        r"request \((?P<tokens>\d+) tokens\) exceeds the available context size \((?P<context>\d+)",
        r"exceeds? the (?:available )?context (?:size|length|window)",
        r"loaded with context length of only (?P<context>\d+) tokens",
    )
)
"""vLLM's, old and new; llama.cpp's, new and old, and Ollama's; LM Studio's."""


def _in_words(message: str) -> Overflow | None:
    for pattern in _WORDS:
        if match := pattern.search(message):
            found = match.groupdict()
            return Overflow(int(found.get("tokens") or 0), int(found.get("context") or 0))
    return None


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
