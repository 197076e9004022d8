"""What is counted of each API key: who asks for how much."""

from app.telemetry.instrument import Instruments
from app.telemetry.record import Record


class KeyMetrics:
    """Counts requests and tokens by the names of keys, which only operators give."""

    def __init__(self, instruments: Instruments) -> None:
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

    def count(self, record: Record, key: str) -> None:
        """Count a request that has ended."""
        self._requests.labels(key, record.outcome or "internal_error").value += 1
        usage = None if record.response is None else record.response.usage()
        if usage is not None:
            self._tokens.labels(key, "prompt").value += usage.prompt
            self._tokens.labels(key, "cached").value += usage.cached or 0
            self._tokens.labels(key, "completion").value += usage.completion
