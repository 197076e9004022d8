"""How many tokens a response cost, as its end tells."""

import json
import re
from dataclasses import dataclass
from typing import Final

from orjson import JSONDecodeError, loads

_read: Final = json.JSONDecoder().raw_decode


CHARACTERS: Final = 4
"""Characters of a token, where nobody has counted: those of English text, about."""

_ANTHROPIC: Final = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
"""https://docs.anthropic.com/en/api/messages#response-usage"""

_OLLAMA: Final = re.compile(rb'"(prompt_eval_count|eval_count)"\s*:\s*(\d{1,12})')
"""https://github.com/ollama/ollama/blob/main/docs/api.md"""

_OLLAMA_READING: Final = re.compile(rb'"prompt_eval_duration"\s*:\s*(\d{1,15})')
"""In nanoseconds."""

_SPACE: Final = 0x20
_COLON: Final = 0x3A
_BRACE: Final = 0x7B


@dataclass(init=False)
class Usage:
    """Tokens of one request; the prompt's include those that came from a cache."""

    prompt: int
    cached: int | None
    """None where the server does not report it."""
    completion: int
    estimated: bool
    """Whether the server did not say, so that it was estimated by lengths."""

    def __init__(
        self, prompt: int, cached: int | None, completion: int, *, estimated: bool = False
    ) -> None:
        self.prompt = prompt
        self.cached = cached
        self.completion = completion
        self.estimated = estimated

    @property
    def total(self) -> int:
        """All tokens, those from a cache included."""
        return self.prompt + self.completion

    @property
    def read(self) -> int:
        """How many of the prompt's did not come from a cache."""
        return self.prompt - (self.cached or 0)


def read_usage(tail: bytes, opening: bytes = b"") -> Usage | None:
    """Read the usage out of the end of a response, JSON or event stream; None if there is none.

    `usage` as OpenAI's and Anthropic's APIs have it; else the `timings` of llama.cpp's server,
    which it sends also where a stream was not asked for its usage; else the counts of Ollama's
    own API. Anthropic's streams tell of the prompt in their `opening`; their prompt's tokens
    leave out those from a cache.
    """
    found = _last_object(tail, b'"usage"')
    if found is not None:
        if opening:
            found = (_last_object(opening, b'"usage"') or {}) | found
        if (held := _count(found.get("cache_read_input_tokens"))) is not None:
            parts = [_count(found.get(name)) for name in _ANTHROPIC]
            prompt = None if parts[0] is None else sum(part or 0 for part in parts)
            return _usage(prompt, held, found.get("output_tokens"))
        details = found.get("prompt_tokens_details") or found.get("input_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        return _usage(
            found.get("prompt_tokens", found.get("input_tokens")),
            cached,
            found.get("completion_tokens", found.get("output_tokens")),
        )
    found = _last_object(tail, b'"timings"')
    if found is None:
        counts = {name: int(count) for name, count in _OLLAMA.findall(tail)}
        return _usage(counts.get(b"prompt_eval_count"), None, counts.get(b"eval_count"))
    read, cached = _count(found.get("prompt_n")), _count(found.get("cache_n"))
    return _usage(None if read is None else read + (cached or 0), cached, found.get("predicted_n"))


def read_seconds(tail: bytes) -> float | None:
    """Read how long a server took to read the prompt, off the end of a response in JSON.

    None where it does not tell: llama.cpp's server does in its `timings`, Ollama's API as well.
    """
    timings = _last_object(tail, b'"timings"')
    if timings is not None:
        told = timings.get("prompt_ms")
        return told / 1000 if isinstance(told, int | float) and told > 0 else None
    durations = _OLLAMA_READING.findall(tail)
    return int(durations[-1]) / 1e9 if durations else None


def _usage(prompt: object, cached: object, completion: object) -> Usage | None:
    read = _count(prompt)
    if read is None:
        return None
    known = _count(cached)
    return Usage(read, known and min(known, read), _count(completion) or 0)


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return None
    return value


def _last_object(tail: bytes, name: bytes) -> dict[str, object] | None:
    """Find the last member of a name whose value is an object.

    Inside of a string the quotation marks of a name would be escaped, so it is found only
    where it is one.
    """
    size = end = len(tail)
    while (at := tail.rfind(name, 0, end)) >= 0:
        end = at
        start = at + len(name)
        while start < size and (tail[start] == _COLON or tail[start] <= _SPACE):
            start += 1
        if start == size or tail[start] != _BRACE:
            continue  # null, as in every event but the last
        value = _object(tail, start)
        if isinstance(value, dict):
            return value
    return None


def _object(text: bytes, start: int) -> object:
    """Read the object that begins at `start`, whatever follows it; None where it is broken."""
    depth, at = 0, start
    while end := text.find(b"}", at) + 1:
        depth += text.count(b"{", at, end) - 1
        at = end
        if depth == 0:  # it ends here, unless braces are in its texts
            try:
                return loads(text[start:end])
            except JSONDecodeError:
                break
    try:
        value: object = _read(text[start:].decode(errors="replace"))[0]
    except (ValueError, RecursionError):
        return None
    return value
