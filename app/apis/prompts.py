"""The text of a prompt, message by message, as the model will read it, more or less."""

import json
from collections.abc import Callable
from typing import Final

import orjson

from app.routing.prompt import BLOCK, Prompt
from app.routing.text_hash import hash_text

Get = Callable[[str], object]
"""Gives a member of a request's body; None where there is none."""


def chat_prompt(get: Get) -> Prompt | None:
    """Read the prompt of a chat request: its tools, then its messages in their order.

    Templates write them in this order; what they add between them is the same for all. What
    is merely written in another way, as one text or as parts, gives the same prompt. OpenAI's
    chat completions, Anthropic's messages and Ollama's chat differ in the system message only.
    """
    return _conversation(get("tools"), get("system"), get("messages"))


def response_prompt(get: Get) -> Prompt | None:
    """Read the prompt of OpenAI's responses: what went before it is not in the request."""
    given = get("input")
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    return _conversation(get("tools"), get("instructions"), given)


def plain_prompt(get: Get) -> Prompt | None:
    """Read the prompt of a plain completion, OpenAI's or Ollama's."""
    prompt = get("prompt")
    if not isinstance(prompt, str) or not prompt:
        return None
    system = get("system")
    if images := get("images"):  # Ollama's
        prompt += _mark(_written(images))
    return Prompt([system, prompt] if isinstance(system, str) and system else [prompt])


PROMPTS: Final[dict[str, Callable[[Get], Prompt | None]]] = {
    "chat": chat_prompt,
    "input": response_prompt,
    "plain": plain_prompt,
}
"""How to read a prompt, by the way in which an `Api` writes it."""

MEDIA: Final = frozenset(
    {
        "audio",
        "document",
        "file",
        "image",
        "image_url",
        "input_audio",
        "input_file",
        "input_image",
        "input_video",
        "video",
        "video_url",
    }
)
"""Types of parts, in OpenAI's and Anthropic's APIs, that are no text."""

REASONING: Final = ("reasoning_content", "reasoning", "thinking")
"""Members of a message that hold a model's reasoning: llama.cpp's and vLLM's, vLLM's newer one,
Ollama's."""

REASONING_TYPES: Final = ("thinking", "redacted_thinking", "reasoning")
"""Types of parts in Anthropic's API, and of items in OpenAI's responses, that hold it."""

MOST_MESSAGES: Final = 10_000
"""A conversation of more, or with more parts in one, is placed by its client.

Each takes a microsecond or two.
"""

BRIEF: Final = 512
"""Most tokens that agents ask for where they want a title, tags or a word on a command."""

DEPTH: Final = 4
"""How deeply parts within parts are read as such: compiled, nobody counts our recursions."""


def system_text(get: Get) -> str:
    """Find what the first system message says, in whatever way an API writes it."""
    messages = get("messages")
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, dict) and message.get("role") in ("system", "developer"):
            return _text(message.get("content"), "\n")
    return _text(get("system"), "\n") or _text(get("instructions"), "\n")


def brief(get: Get) -> bool:
    """Whether a request asks for few tokens, in whatever way an API says how many."""
    most = get("max_tokens") or get("max_completion_tokens") or get("max_output_tokens")
    if most is None and isinstance(options := get("options"), dict):  # Ollama's
        most = options.get("num_predict")
    return isinstance(most, int) and 0 < most <= BRIEF


def _conversation(tools: object, system: object, messages: object) -> Prompt | None:
    if not isinstance(messages, list) or _is_too_long(messages):
        return None
    texts = []
    opening = None
    reasoned = []
    if tools:
        texts.append(_written(tools))
    if system:
        texts.append(_message({"role": "system", "content": system}))
    for message in messages:
        if isinstance(message, dict):
            role = message.get("role")
            if role == "user":
                if opening is None:
                    opening = len(texts)
            elif (role == "assistant" or role is None) and _reasons(message):
                reasoned.append(len(texts))
                if message.get("type") in REASONING_TYPES:
                    continue  # the next item is what came of it
            texts.append(_message(message))
    return Prompt(texts, opening, reasoned)


def _is_too_long(messages: list[object]) -> bool:
    if len(messages) > MOST_MESSAGES:
        return True
    for message in messages:
        if isinstance(message, dict):
            content = message.get("content")
            if isinstance(content, list) and len(content) > MOST_MESSAGES:
                return True
    return False


def _reasons(message: dict[str, object]) -> bool:
    """Whether a message holds a model's reasoning.

    It is no part of the prompt here: clients and templates leave it out sooner or later.
    """
    content = message.get("content")
    if isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") in REASONING_TYPES for part in content
    ):
        return True
    if len(message) <= 2:
        return False  # a role and a content
    if message.get("type") in REASONING_TYPES:
        return True
    return any(message.get(name) for name in REASONING)


def _message(message: dict[str, object]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        content = "".join([_part(part, DEPTH) for part in content])
    calls = message.get("tool_calls")
    if not isinstance(content, str):
        # One of the responses' items that have no content, such as a tool's output.
        return f"\n{_written(calls or message)}"
    text = f"{message.get('role')}\n{content}"
    if images := message.get("images"):  # Ollama's
        text += _mark(_written(images))
    return text + _written(calls) if calls else text


def _text(content: object, between: str) -> str:
    """Join a text that may come in parts; what is no text is left out."""
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        content = between.join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _part(part: object, depth: int) -> str:
    if not isinstance(part, dict):
        return _written(part)
    if isinstance(text := part.get("text"), str):
        return text
    if part.get("type") in REASONING_TYPES:
        return ""
    content = part.get("content")
    if isinstance(content, list) and depth:  # what a tool gave, in parts again
        rest = {name: value for name, value in part.items() if name != "content"}
        return _written(rest) + "".join([_part(inner, depth - 1) for inner in content])
    written = _written(part)
    return _mark(written) if part.get("type") in MEDIA and len(written) > BLOCK else written


def _mark(media: str) -> str:
    """Stand for what is no text: all that matters is whether it is the same."""
    return str(hash_text(media))


def _written(value: object) -> str:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # a number beyond 64 bits, half a surrogate pair
        return json.dumps(value, sort_keys=True)
