"""The text of a prompt, message by message, as the model will read it, more or less."""

import json
from collections.abc import Callable, Mapping

import orjson

from app.routing.prompt import Prompt

Get = Callable[[str], object]
"""Gives a member of a request's body; None where there is none."""


def chat_prompt(get: Get) -> Prompt | None:
    """Read the prompt of a chat request: its tools, then its messages in their order.

    Templates write them in this order; what they add between them is the same for all. What
    is merely written in another way, as one text or as parts, gives the same prompt.
    """
    messages = get("messages")
    if not isinstance(messages, list):
        return None
    texts = []
    opening = None
    if tools := get("tools"):
        texts.append(_written(tools))
    for message in messages:
        if isinstance(message, dict):
            if opening is None and message.get("role") == "user":
                opening = len(texts)
            texts.append(_message(message))
    return Prompt(texts, opening)


def _message(message: Mapping[str, object]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(map(_part, content))
    text = f"{message.get('role')}\n{content}" if isinstance(content, str) else "\n"
    if calls := message.get("tool_calls"):
        text += _written(calls)
    return text


def _part(part: object) -> str:
    if isinstance(part, dict) and isinstance(text := part.get("text"), str):
        return text
    return _written(part)


def _written(value: object) -> str:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # a number beyond 64 bits, half a surrogate pair
        return json.dumps(value, sort_keys=True)
