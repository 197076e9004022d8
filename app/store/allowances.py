"""What each API key has used, told to all replicas with every heartbeat.

A limit counts what the others have told last: within one heartbeat all together may let a few
requests more in. No request waits for it.
"""

import json
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from app.keys.allowance import Allowance, Spent

TELL: Final = """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[3]) * 2)
local told = {}
for _, replica in ipairs(redis.call('HKEYS', KEYS[1])) do
  if not redis.call('ZSCORE', KEYS[2], replica) then
    redis.call('HDEL', KEYS[1], replica)
  elseif replica ~= ARGV[1] then
    told[#told + 1] = redis.call('HGET', KEYS[1], replica)
  end
end
return told
"""
"""Tells what a replica's keys have used, and returns what those of others have.

KEYS are what all have told, and the replicas there are; ARGV the replica, its words, milliseconds.
"""


class SharedAllowances:
    """Has the limits of API keys hold over all replicas.

    `allowances` gives those that have limits, by the names of their keys.
    """

    def __init__(
        self,
        tell: Callable[..., Awaitable[Any]],
        keys: list[str],
        allowances: Callable[[], Mapping[str, Allowance]],
    ) -> None:
        self._tell = tell
        self._keys = keys
        self._allowances = allowances

    async def beat(self, replica: str, milliseconds: int, now: float) -> None:
        """Tell what was used until `now`, on the monotonic clock, and take in what others tell."""
        allowances = self._allowances()
        if not allowances:
            return
        words = json.dumps({name: one.spent(now) for name, one in allowances.items()})
        told = await self._tell(keys=self._keys, args=[replica, words, milliseconds])
        in_flight, requests, tokens = Counter[str](), Counter[str](), Counter[str]()
        for text in told:
            for name, (flying, asked, used) in json.loads(text).items():
                in_flight[name] += flying
                requests[name] += asked
                tokens[name] += used
        for name, one in allowances.items():
            one.others = Spent(in_flight[name], requests[name], tokens[name])

    def go_alone(self, replicas: int) -> None:
        """Have each key keep to our share of its limits."""
        for one in self._allowances().values():
            one.others = Spent(*(_rest(most, replicas) for most in one.limits))


def _rest(most: int | None, replicas: int) -> int:
    """Return what others may have of a limit."""
    return 0 if most is None else most - math.ceil(most / replicas)
