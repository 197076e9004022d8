"""Whether an event of a stream carries something that a model has generated."""

import json
from typing import Final


def has_token(data: bytes) -> bool:
    """Whether an event or a line carries something that was generated."""
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        return False
    if not isinstance(event, dict):
        return False
    choices = event.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            delta = choice.get("delta")
            if choice.get("text") or (isinstance(delta, dict) and _says_something(delta)):
                return True
    message = event.get("message")  # Ollama's chats
    if isinstance(message, dict) and _says_something(message):
        return True
    if isinstance(said := event.get("response"), str) and said:  # its completions
        return True
    delta = event.get("delta")  # Anthropic's messages, OpenAI's responses
    if isinstance(delta, dict):
        return _says_something(delta)
    return isinstance(delta, str) and delta != ""


def _says_something(delta: dict[str, object]) -> bool:
    return any(delta.get(name) for name in _SAYINGS)


_SAYINGS: Final = (
    "content",
    "reasoning_content",
    "reasoning",
    "tool_calls",
    "function_call",
    "text",
    "thinking",
    "partial_json",
)
