"""Who has prompts read again, in the last hour: by client, program and what changed in them."""

import time
from collections import deque
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Final, NamedTuple

from app.routing.prompt_change import ADVICE, PromptChange
from app.telemetry.record import Record

HOUR: Final = 3600.0
MOST: Final = 4096
"""How many requests of the hour are remembered: the last ones."""

SHOWN: Final = 20
"""How many of the worst are told."""

NAME_LIMIT: Final = 128
"""How much of what clients call themselves is kept, in characters."""


class _Seen(NamedTuple):
    """One request whose conversation was read again; `at` and `seconds` are in seconds."""

    at: float
    client: str
    program: str
    change: PromptChange
    tokens: int
    seconds: float


class ChangedPrompts:
    """Remembers the requests that had their conversation read again. No text of them is kept."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[_Seen] = deque(maxlen=MOST)

    def finished(self, record: Record) -> None:
        """Take in a request that has ended, if its conversation was read again."""
        lease = record.lease
        if lease is None or lease.change is None:
            return
        usage = None if record.response is None else record.response.usage()
        self._seen.append(
            _Seen(
                self._clock(),
                (record.username or record.address)[:NAME_LIMIT],
                _program(record.user_agent)[:NAME_LIMIT],
                lease.change,
                0 if usage is None else usage.read,
                lease.reading_seconds or 0.0,
            )
        )

    def worst(self) -> list[dict[str, Any]]:
        """Tell what the last hour's cost, the worst first, and what helps.

        `tokens` were read again or for the first time, in `seconds`; `message` and `character`
        tell where the last prompt began to differ.
        """
        seen, oldest = self._seen, self._clock() - HOUR
        while seen and seen[0].at < oldest:
            seen.popleft()
        found: dict[tuple[str, str, str], dict[str, Any]] = {}
        for one in seen:
            change = one.change
            new = {"requests": 0, "tokens": 0, "seconds": 0.0}
            sums = found.setdefault((one.client, one.program, change.kind), new)
            sums["requests"] += 1
            sums["tokens"] += one.tokens
            sums["seconds"] += one.seconds
            sums["message"], sums["character"] = change.message, change.character
        told = [
            {
                "client": client,
                "program": program,
                "kind": kind,
                **sums,
                "seconds": round(sums["seconds"], 1),
                "advice": ADVICE[kind],
            }
            for (client, program, kind), sums in found.items()
        ]
        return sorted(told, key=itemgetter("tokens", "requests"), reverse=True)[:SHOWN]


def _program(user_agent: bytes) -> str:
    """Return the first product of a `User-Agent`, with its version."""
    return user_agent.partition(b" ")[0].decode("ascii", "replace")
