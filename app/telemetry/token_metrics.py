"""What is counted of the tokens of models' responses."""

from typing import Final, NamedTuple

from app.apis.endpoints import api_of
from app.telemetry.instrument import SECONDS, Count, Instruments, Series
from app.telemetry.record import Record
from app.telemetry.response_reader import GAPS

PROMPT: Final = (256, 1024, 4096, 8192, 16384, 32768, 65536)
COMPLETION: Final = (16, 64, 256, 512, 1024, 2048, 8192)
LONGEST_GAP: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

_ENDS: Final = {"success": "empty", "client_disconnect": "disconnect", "timeout": "timeout"}
"""Why a stream had no token, by the request's outcome."""


class Tokens(NamedTuple):
    """What a model's response is counted on."""

    first_token: Series
    gaps: Series
    longest_gap: Series
    prompt: Count
    cached: Count
    completion: Count
    prompt_size: Series
    completion_size: Series
    usage_present: Count
    usage_missing: Count


class TokenMetrics:
    """Counts tokens, and how long people wait for them."""

    def __init__(self, instruments: Instruments) -> None:
        counter, histogram = instruments.counter, instruments.histogram
        self._first_token = histogram(
            "time_to_first_token_seconds",
            "From a request's arrival to the first token of its stream.",
            SECONDS,
            "model",
        )
        self._tokenless = counter(
            "streams_without_token", "Streams that ended before a token came.", "model", "reason"
        )
        self._gaps = histogram(
            "inter_token_seconds",
            "Pauses between the pieces of a stream, each mostly one token.",
            GAPS,
            "model",
        )
        self._longest_gap = histogram(
            "stream_max_gap_seconds", "The longest pause of a stream.", LONGEST_GAP, "model"
        )
        self._prompt = counter(
            "prompt_tokens", "Prompt tokens, cached ones included.", "server", "model"
        )
        self._cached = counter(
            "prompt_tokens_cached", "Prompt tokens that came from a cache.", "server", "model"
        )
        self._completion = counter("completion_tokens", "Generated tokens.", "server", "model")
        self._prompt_size = histogram(
            "request_prompt_tokens", "Prompt tokens of a request.", PROMPT, "model"
        )
        self._completion_size = histogram(
            "request_completion_tokens", "Generated tokens of a request.", COMPLETION, "model"
        )
        self._changed = counter(
            "changed_prompts",
            "Requests whose conversation was read again because a text in it had changed: a clock, "
            "a hash, the order of tools, a message's place, left out reasoning, or another.",
            *("server", "model", "kind"),
        )
        self._read_again = counter(
            "changed_prompt_tokens",
            "Prompt tokens of these requests that did not come from a cache.",
            *("server", "model", "kind"),
        )
        self._reading = counter(
            "changed_prompt_seconds",
            "Seconds in which they were read: to the first token, or by the server's speed.",
            *("server", "model", "kind"),
        )
        self._usage = counter(
            "usage_reports",
            "Responses that reported their tokens, and those that did not although they cost some.",
            *("server", "model", "result"),
        )

    def of(self, server: str, model: str) -> Tokens:
        """Return what counts the responses of a model at a server."""
        return Tokens(
            self._first_token.labels(model),
            self._gaps.labels(model),
            self._longest_gap.labels(model),
            self._prompt.labels(server, model),
            self._cached.labels(server, model),
            self._completion.labels(server, model),
            self._prompt_size.labels(model),
            self._completion_size.labels(model),
            self._usage.labels(server, model, "present"),
            self._usage.labels(server, model, "missing"),
        )

    def count(self, record: Record, model: str, tokens: Tokens) -> None:
        """Count a response's tokens and when they came."""
        response = record.response
        if response is None:
            return
        if response.first_token is not None and response.gaps is not None:
            tokens.first_token.observe(response.first_token - record.started, record.id)
            tokens.gaps.add(response.gaps)
            if any(response.gaps.counts):
                tokens.longest_gap.observe(response.longest_gap)
        elif response.streams:
            self._tokenless.labels(model, _ENDS.get(record.outcome or "", "error")).value += 1
        usage = response.usage()
        if record.lease is not None and record.lease.change is not None:
            about = record.server, model, record.lease.change.kind
            self._changed.labels(*about).value += 1
            self._reading.labels(*about).value += record.lease.reading_seconds or 0.0
            if usage is not None:
                self._read_again.labels(*about).value += usage.read
        if usage is not None:
            tokens.usage_present.value += 1
            tokens.prompt.value += usage.prompt
            tokens.cached.value += usage.cached or 0
            tokens.completion.value += usage.completion
            tokens.prompt_size.observe(usage.prompt)
            tokens.completion_size.observe(usage.completion)
        elif record.outcome == "success" and api_of(record.endpoint).tokens:
            tokens.usage_missing.value += 1
