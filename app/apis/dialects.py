"""What each API is told in its own words: errors, and that a stream is still alive."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, cast

from app.apis.context import Overflow
from app.apis.errors import error_json

COMMENT: Final = b": keep-alive\n\n"
"""A line that begins with a colon, which clients skip (WHATWG HTML, section 9.2.6)."""


def as_event(data: bytes, name: bytes = b"") -> bytes:
    """Write an event (WHATWG HTML, section 9.2.5); the data must be one line."""
    return (b"event: " + name + b"\n" if name else b"") + b"data: " + data + b"\n\n"


class Dialect:
    """What the APIs of OpenAI have in common, and the others where they say nothing else."""

    stream_type: bytes = b"text/event-stream"
    endings: tuple[bytes, ...] = ()
    """One of these stands in the last event of a stream, where its end has to be told."""
    fails_in_streams: bool = False
    """Whether clients are told within a stream, not by a status, that a prompt is too long."""

    def error(self, status: int, kind: str, message: str) -> bytes:
        """Write an error as a body."""
        return error_json(status, kind, message)

    def error_event(self, status: int, kind: str, message: str) -> bytes:
        """Write an error as a piece of a stream."""
        return as_event(self.error(status, kind, message))

    def too_long(self, overflow: Overflow) -> str:
        """Say that a prompt is too long, as clients know it that compact their conversations."""
        context = f" is {overflow.context} tokens" if overflow.context else " is exceeded"
        tokens = f" of {overflow.tokens} tokens" if overflow.tokens else ""
        return f"This model's maximum context length{context}; your prompt{tokens} is too long."

    def passed_on(self, status: int, error: Mapping[str, object]) -> bytes:
        """Write a server's error, the body of a response, as a piece of a stream."""
        return self.error_event(status, *_words(error))

    def keepalive(self, _model: str) -> bytes:
        """Write a piece that says nothing but that the stream is alive: here a comment."""
        return COMMENT

    def ended(self, tail: bytes) -> bool:
        """Whether a piece may follow on the last bytes of a stream."""
        return not tail or tail.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))


class Chat(Dialect):
    """OpenAI's chat completions, and every API that nothing else is known of."""

    endings: tuple[bytes, ...] = (b"[DONE]", b'"error"', b'"stop":true')

    def passed_on(self, _status: int, error: Mapping[str, object]) -> bytes:
        """Write a server's error as it is, with all that it says."""
        return as_event(json.dumps(error).encode())


class Responses(Dialect):
    """OpenAI's responses."""

    endings: tuple[bytes, ...] = (
        b"response.completed",
        b"response.failed",
        b"response.incomplete",
        b'"error"',
    )
    fails_in_streams = True

    def error_event(self, status: int, kind: str, message: str) -> bytes:
        """Write a `response.failed` event.

        Codex takes notice of no other; OpenAI's packages raise where an event has an `error`.
        https://platform.openai.com/docs/api-reference/responses-streaming/response/failed
        """
        failure = {"code": kind, "message": message}
        response = {"object": "response", "status": "failed", "error": failure, "output": []}
        error = {"type": kind, "code": str(status), "message": message}
        event = {"type": "response.failed", "response": response, "error": error}
        return as_event(json.dumps(event).encode(), b"response.failed")

    def keepalive(self, _model: str) -> bytes:
        """Write an event of a type that clients skip: Codex counts events, and no comments."""
        return as_event(b'{"type":"keepalive"}', b"keepalive")


class Anthropic(Dialect):
    """Anthropic's messages."""

    endings: tuple[bytes, ...] = (b"message_stop", b"event: error")

    def error(self, status: int, kind: str, message: str) -> bytes:
        """Write an error as a body (https://docs.anthropic.com/en/api/errors)."""
        named = _ANTHROPIC_ERRORS.get(status, "api_error" if status >= 500 else kind)
        error = {"type": named, "message": message}
        return json.dumps({"type": "error", "error": error}).encode()

    def error_event(self, status: int, kind: str, message: str) -> bytes:
        """Write an `error` event."""
        return as_event(self.error(status, kind, message), b"error")

    def too_long(self, overflow: Overflow) -> str:
        """Say that a prompt is too long: Claude Code looks for these words."""
        if overflow.tokens and overflow.context:
            return f"prompt is too long: {overflow.tokens} tokens > {overflow.context} maximum"
        return "prompt is too long"

    def passed_on(self, status: int, error: Mapping[str, object]) -> bytes:
        """Write a server's error as an `error` event; llama.cpp's is in OpenAI's form."""
        if error.get("type") == "error":
            return as_event(json.dumps(error).encode(), b"error")
        return super().passed_on(status, error)

    def keepalive(self, _model: str) -> bytes:
        """Write a `ping`, as Anthropic does.

        https://docs.anthropic.com/en/docs/build-with-claude/streaming
        """
        return as_event(b'{"type": "ping"}', b"ping")


class Ollama(Dialect):
    """Ollama's own API, whose streams are lines of JSON and whose errors are one text."""

    stream_type = b"application/x-ndjson"
    endings: tuple[bytes, ...] = (b'"done":true', b'"done": true', b'"error"')

    def __init__(self, empty: Mapping[str, object]) -> None:
        self._empty = empty
        """What a piece of a response has in it that says nothing."""

    def error(self, _status: int, _kind: str, message: str) -> bytes:
        """Write an error as a body (https://github.com/ollama/ollama/blob/main/docs/api.md)."""
        return json.dumps({"error": message}).encode()

    def error_event(self, status: int, kind: str, message: str) -> bytes:
        """Write an error as a line."""
        return self.error(status, kind, message) + b"\n"

    def keepalive(self, model: str) -> bytes:
        """Write a piece of a response without any text."""
        at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        piece = {"model": model, "created_at": at, **self._empty, "done": False}
        return json.dumps(piece).encode() + b"\n"

    def ended(self, tail: bytes) -> bool:
        """Whether the last line is whole."""
        return not tail or tail.endswith(b"\n")


OPENAI: Final = Chat()
RESPONSES: Final = Responses()
ANTHROPIC: Final = Anthropic()
OLLAMA_CHAT: Final = Ollama({"message": {"role": "assistant", "content": ""}})
OLLAMA: Final = Ollama({"response": ""})

_ANTHROPIC_ERRORS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def _words(body: Mapping[str, object]) -> tuple[str, str]:
    """Read the kind and the message of a server's error, in whatever form it is."""
    error = body.get("error")
    if isinstance(error, dict):
        fields = cast("dict[str, object]", error)
        return str(fields.get("type") or "upstream_error"), str(fields.get("message") or body)
    return "upstream_error", str(error or body)
