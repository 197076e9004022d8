"""Whether the time that a key takes tells how much of it is right."""

import random
import statistics
from time import perf_counter_ns

from app.keys.key_ring import Key, KeyRing

TRIES = 10_000
KEY = "sk-bench-0123456789abcdef"
SHOWN = {
    "right": KEY,
    "right but for its last character": KEY[:-1] + "g",
    "wrong from its first character": "x" + KEY[1:],
}


def guesses() -> dict[str, float]:
    """Show each key as often, in an order by chance; return the median times in nanoseconds."""
    keys = KeyRing([(f"sk-number-{n:012}", Key(f"key{n}")) for n in range(999)] + [(KEY, Key("k"))])
    headers = {name: {b"x-api-key": key.encode()} for name, key in SHOWN.items()}
    order = [name for name in SHOWN for _ in range(TRIES)]
    random.Random(1).shuffle(order)
    times: dict[str, list[int]] = {name: [] for name in SHOWN}
    for name in order:
        shown = headers[name]
        begun = perf_counter_ns()
        keys.find(shown)
        times[name].append(perf_counter_ns() - begun)
    return {name: statistics.median(took) for name, took in times.items()}
