"""What is counted of each API key: who asks for how much."""

from typing import NamedTuple

from app.telemetry.instrument import Count, Instruments
from app.telemetry.record import Outcome, Record


class Meters(NamedTuple):
    """What requests with one key and outcome are counted on: looked up once."""

    requests: Count
    prompt: Count
    cached: Count
    completion: Count
    estimated: Count


class KeyMetrics:
    """Counts requests and tokens by the names of keys, which only operators give."""

    def __init__(self, instruments: Instruments) -> None:
        self._known: dict[tuple[str, Outcome | None], Meters] = {}
        self._requests = instruments.counter(
            "key_requests",
            "Finished requests by API key and outcome; none where nobody needs a key.",
            *("key", "outcome"),
        )
        self._tokens = instruments.counter(
            "key_tokens",
            "Tokens by API key: of prompts, those of them that came from a cache, and generated.",
            *("key", "kind"),
        )
        self._estimated = instruments.counter(
            "key_tokens_estimated",
            "Tokens by API key of requests whose server did not tell their usage.",
            "key",
        )

    def count(self, record: Record, key: str) -> None:
        """Count a request that has ended."""
        meters = self._known.get((key, record.outcome)) or self._meters(key, record.outcome)
        meters.requests.value += 1
        usage = record.spent()
        if usage is not None:
            meters.prompt.value += usage.prompt
            meters.cached.value += usage.cached or 0
            meters.completion.value += usage.completion
            if usage.estimated:
                meters.estimated.value += usage.total

    def _meters(self, key: str, outcome: Outcome | None) -> Meters:
        meters = Meters(
            self._requests.labels(key, outcome or "internal_error"),
            self._tokens.labels(key, "prompt"),
            self._tokens.labels(key, "cached"),
            self._tokens.labels(key, "completion"),
            self._estimated.labels(key),
        )
        self._known[key, outcome] = meters
        return meters
