"""What a request to a modelled server asks for, and the JSON of its answer."""

import json
import math
from dataclasses import dataclass, field
from typing import Any

from app.demo.prose import tokens_of

Json = dict[str, Any]


class BadRequest(ValueError):
    """The body asks for nothing that could be answered; the message is for the client."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second: of prompts read (`prefill`) and of answers written (`decode`)."""

    prefill: float = math.inf
    decode: float = math.inf


INSTANT = Speed()
"""Nothing takes any time, and nobody sleeps."""


@dataclass(slots=True)
class Completion:
    """One completion under way: a chat's, or a plain one's."""

    model: str
    server: str
    chat: bool
    prompt: list[str]
    most: int | None
    endless: bool
    stream: bool
    include_usage: bool
    slot: int | None = None
    """The number of the slot that was asked for."""
    number: int = 0
    cached: int = 0
    answer: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, body: Json, model: str, server: str, *, chat: bool) -> "Completion":
        """Read a request.

        Raises:
            BadRequest: there are no messages, or no prompt.
        """
        options = body.get("stream_options")
        most = body.get("max_completion_tokens", body.get("max_tokens"))
        if most is not None and (not isinstance(most, int) or most < 0):
            raise BadRequest("max_tokens must be a number of tokens")
        endless = body.get("ignore_eos") is True
        if endless and most is None:
            raise BadRequest("ignore_eos needs max_tokens here: nothing else ends the answer")
        slot = body.get("id_slot")
        return cls(
            model,
            server,
            chat,
            _chat_prompt(body.get("messages")) if chat else _plain_prompt(body.get("prompt")),
            most,
            endless,
            stream=body.get("stream") is True,
            include_usage=isinstance(options, dict) and options.get("include_usage") is True,
            slot=slot if isinstance(slot, int) and slot >= 0 else None,
        )

    @property
    def finish_reason(self) -> str:
        return "length" if len(self.answer) == self.most else "stop"

    def opening(self) -> list[bytes]:
        """Give the events before the first token: a chat's names the role."""
        return [self._event([self._choice({"role": "assistant", "content": None})])] * self.chat

    def piece(self, token: str) -> bytes:
        """Give the event of one token."""
        return self._event([self._choice({"content": token} if self.chat else token)])

    def closing(self, speed: Speed) -> list[bytes]:
        """Give the events after the last token. As llama-server does, the last has `timings`."""
        finish = [self._choice({} if self.chat else "", self.finish_reason)]
        timings = {"timings": self.timings(speed)}
        if not self.include_usage:
            return [self._event(finish, timings), b"data: [DONE]\n\n"]
        usage = {"usage": self.usage(), **timings}
        return [self._event(finish), self._event([], usage), b"data: [DONE]\n\n"]

    def whole(self, speed: Speed) -> Json:
        """Give the answer in one piece."""
        text = "".join(self.answer)
        message = (
            {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        )
        choice = {"index": 0, **message, "finish_reason": self.finish_reason}
        kind = "chat.completion" if self.chat else "text_completion"
        ending = {"usage": self.usage(), "timings": self.timings(speed)}
        return self._frame(kind, [choice]) | ending

    def usage(self) -> Json:
        """Count tokens in OpenAI's form."""
        return {
            "prompt_tokens": len(self.prompt),
            "completion_tokens": len(self.answer),
            "total_tokens": len(self.prompt) + len(self.answer),
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }

    def timings(self, speed: Speed) -> Json:
        """Tell counts and times in llama.cpp's form, as modelled."""
        read, written = len(self.prompt) - self.cached, len(self.answer)
        return {
            "cache_n": self.cached,
            **_timing("prompt", read, speed.prefill),
            **_timing("predicted", written, speed.decode),
        }

    def _choice(self, delta: object, finish_reason: str | None = None) -> Json:
        content = {"delta": delta} if self.chat else {"text": delta}
        return {"index": 0, **content, "finish_reason": finish_reason}

    def _event(self, choices: list[Json], more: Json | None = None) -> bytes:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return b"data: " + dumps(self._frame(kind, choices) | (more or {})) + b"\n\n"

    def _frame(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.server}-{self.number}",
            "object": kind,
            "created": CREATED,
            "model": self.model,
            "system_fingerprint": self.server,
            "choices": choices,
        }


CREATED = 1_750_000_000
"""A date for everything that must tell one, in seconds since the epoch."""


def dumps(value: object) -> bytes:
    """Write JSON in UTF-8, without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def _timing(name: str, count: int, speed: float) -> Json:
    return {
        f"{name}_n": count,
        f"{name}_ms": 1_000 * count / speed,
        f"{name}_per_token_ms": 1_000 / speed,
        # JSON has no infinity: llama-server, too, writes null for what is no number.
        f"{name}_per_second": speed if math.isfinite(speed) else None,
    }


def _chat_prompt(messages: object) -> list[str]:
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list that is not empty")
    prompt = []
    for message in messages:
        if not isinstance(message, dict):
            raise BadRequest("a message must be an object")
        # The marks are tokens of their own, so that an answer has the same tokens when it
        # comes back as part of the next prompt.
        prompt += [f"<|{message.get('role')}|>", *tokens_of(_text(message.get("content")))]
    return [*prompt, "<|assistant|>"]


def _plain_prompt(prompt: object) -> list[str]:
    if prompt is None:
        raise BadRequest("prompt is missing")
    return tokens_of(_text(prompt)) or [""]


def _text(content: object) -> str:
    if content is None:
        return ""
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
