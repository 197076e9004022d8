"""OpenAI's API as far as routing needs it: which paths make models work, who asks for what."""

import re

from app.routing.choice import Ask
from app.web.body import BadRequest, Body
from app.web.prompts import chat_prompt
from app.web.rewrites import Rewrites

SYSTEM_TEXT_LIMIT = 4_000
"""How much of a system message is searched for the user's name, in characters."""

INFERENCE_PATHS = frozenset(
    {
        "/api/chat",
        "/api/embed",
        "/api/embeddings",
        "/api/generate",
        "/completion",
        "/completions",
        "/embedding",
        "/embeddings",
        "/infill",
        "/rerank",
        "/reranking",
        "/v1/audio/speech",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/images/edits",
        "/v1/images/generations",
        "/v1/messages",
        "/v1/rerank",
        "/v1/reranking",
        "/v1/responses",
    }
)
"""A POST to one of these makes a model work: it holds a lease."""

ROUTED_PATH = "/v1/chat/completions"

SLOT = "id_slot"
"""Tells llama.cpp's server which slot to use; a busy one is waited for.

https://github.com/ggml-org/llama.cpp/tree/master/tools/server
"""


class ChatRequest:
    """A chat completion request: who asks for which model, and what goes out."""

    def __init__(
        self,
        raw: bytes,
        address: str,
        username_pattern: re.Pattern[str],
        rewrites: Rewrites,
        *,
        reads_prompt: bool = True,
    ) -> None:
        """Read a request from a client at `address`, its prompt only where that matters.

        Raises:
            BadRequest: the body is no JSON object, or its model is no text.
        """
        self._body = body = Body(raw)
        self._rewrites = rewrites
        self.streams = body.get("stream") is True
        self._system = system = _system_text(body.get("messages"))
        prompt = chat_prompt(body.get) if reads_prompt else None
        body.forget("messages", "tools")  # long, while the answer may take minutes
        model = body.get("model")
        if model is None:
            model = ""  # the server has a model of its own: the fallback decides
        elif not isinstance(model, str):
            raise BadRequest("model must be a string")
        elif not model.isascii() and _has_lone_surrogate(model):
            raise BadRequest("model holds half a surrogate pair")
        self.username = _username(system, username_pattern)
        self.ask = Ask(model, rewrites.names(model), self.username or address, address, prompt)

    def body_for(self, instance: str, slot: int | None = None) -> bytes:
        """Write the body for where it goes: nothing but model, slot and the rewrites changes."""
        model = self.ask.model
        if not model:
            return self._body.raw
        rewritten = self._rewrites.changes(
            model,
            instance,
            self._body.get("chat_template_kwargs"),
            self._system,
            has_grammar="grammar" in self._body,
        )
        if slot is not None and SLOT not in self._body:
            rewritten = {**rewritten, SLOT: slot}
        if instance == model and not rewritten:
            return self._body.raw
        return self._body.edited({"model": instance, **rewritten})


def _system_text(messages: object) -> str:
    """Find the beginning of the first system message."""
    if not isinstance(messages, list):
        return ""
    for message in messages:
        if isinstance(message, dict) and message.get("role") in ("system", "developer"):
            content = message.get("content")
            if isinstance(content, list):
                parts = (part.get("text") for part in content if isinstance(part, dict))
                content = "\n".join(part for part in parts if isinstance(part, str))
            return content[:SYSTEM_TEXT_LIMIT] if isinstance(content, str) else ""
    return ""


def _username(system: str, pattern: re.Pattern[str]) -> str | None:
    if not system:
        return None
    match = pattern.search(system)
    if match is None:
        return None
    name = (match.group(1) or "").strip()
    if not name.isascii():  # a lone surrogate could be neither logged nor shown
        name = name.encode(errors="replace").decode()
    return name[:128] or None


def _has_lone_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
