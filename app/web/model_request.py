"""A request that makes a model work: who asks for which model, and what goes out."""

import re
from collections.abc import Mapping
from types import MappingProxyType

from app.routing.choice import Ask
from app.routing.prompt import Prompt
from app.routing.residency import WORTH_KEEPING
from app.settings.paths import CHAT_PATH, ROUTABLE_PATHS
from app.web.body import BadRequest, Body
from app.web.multipart import Form, boundary_of
from app.web.prompts import PROMPTS, system_text
from app.web.rewrites import Rewrites

SYSTEM_TEXT_LIMIT = 4_000
"""How much of a system message is searched for the user's name, in characters."""

INFERENCE_PATHS = frozenset(ROUTABLE_PATHS) - {"/v1/messages/count_tokens"} | {
    "/api/embeddings",
    "/embedding",
    "/embeddings",
    "/infill",
    "/rerank",
    "/reranking",
    "/v1/audio/speech",
    "/v1/images/edits",
    "/v1/images/generations",
}
"""A POST to one of these makes a model work: it holds a lease wherever it goes."""

SLOT = "id_slot"
"""Tells llama.cpp's server which slot to use; a busy one is waited for.

https://github.com/ggml-org/llama.cpp/tree/master/tools/server
"""

SHORT = Prompt([])
"""Stands for every prompt that is too short to be worth a look."""

_TAKE_A_SLOT = frozenset(
    {
        "/completion",
        "/completions",
        "/v1/completions",
        "/v1/messages",
        "/v1/responses",
        CHAT_PATH,
    }
)


class ModelRequest:
    """A request that is routed by the model that it names."""

    def __init__(
        self,
        path: str,
        raw: bytes,
        address: str,
        content_type: bytes = b"",
        *,
        username_pattern: re.Pattern[str],
        rewrites: Rewrites,
        aliases: Mapping[str, str] = MappingProxyType({}),
        reads_prompt: bool = True,
    ) -> None:
        """Read a request from a client at `address`, its prompt only where that matters.

        Raises:
            BadRequest: the body is no JSON object and no form, or its model is no text.
        """
        self._path = path
        self._body = body = _read(raw, content_type)
        self._rewrites = rewrites
        self.streams = body.get("stream") is True
        self._system = system = system_text(body.get)[:SYSTEM_TEXT_LIMIT]
        prompt = None
        if reads_prompt and (read_prompt := PROMPTS.get(path)) is not None:
            prompt = read_prompt(body.get) if len(raw) >= WORTH_KEEPING else SHORT
        # They are long, and the answer may take minutes.
        body.forget("messages", "tools", "prompt", "input")
        named = body.get("model")
        if named is None:
            named = ""  # the server has a model of its own: the fallback decides
        elif not isinstance(named, str):
            raise BadRequest("model must be a string")
        elif not named.isascii() and _has_lone_surrogate(named):
            raise BadRequest("model holds half a surrogate pair")
        self._named = named
        model = aliases.get(named, named)
        self.username = _username(system, username_pattern)
        self.ask = Ask(model, rewrites.names(model), self.username or address, address, prompt)

    def body_for(self, instance: str, slot: int | None = None) -> bytes:
        """Write the body for where it goes: nothing but model, slot and the rewrites changes."""
        if not self._named:
            return self._body.raw
        changes: dict[str, object] = {}
        if self._path == CHAT_PATH:
            changes.update(
                self._rewrites.changes(
                    self.ask.model,
                    instance,
                    self._body.get("chat_template_kwargs"),
                    self._system,
                    has_grammar="grammar" in self._body,
                )
            )
        if slot is not None and self._takes_a_slot:
            changes[SLOT] = slot
        if instance == self._named and not changes:
            return self._body.raw
        return self._body.edited({"model": instance, **changes})

    @property
    def _takes_a_slot(self) -> bool:
        """Whether one slot can be named; several answers at once take several."""
        return (
            self._path in _TAKE_A_SLOT
            and SLOT not in self._body
            and self._body.get("n") in (None, 1)
        )


def _read(raw: bytes, content_type: bytes) -> Body | Form:
    if content_type[:1] not in b"mM":  # most are JSON
        return Body(raw)
    boundary = boundary_of(content_type)
    return Body(raw) if boundary is None else Form(raw, boundary)


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
