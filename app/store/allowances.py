"""What each API key has used, reported to all replicas with every heartbeat.

A limit counts what the others have reported last: within one heartbeat all together may admit a few
requests more. No request waits for it.
"""

import json
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from app.keys.allowance import Allowance, Spent

REPORT: Final = """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[3]) * 2)
local others = {}
for _, replica in ipairs(redis.call('HKEYS', KEYS[1])) do
  if not redis.call('ZSCORE', KEYS[2], replica) then
    redis.call('HDEL', KEYS[1], replica)
  elseif replica ~= ARGV[1] then
    others[#others + 1] = redis.call('HGET', KEYS[1], replica)
  end
end
return others
"""
"""Stores what a replica's keys have used, and returns what those of others have.

KEYS are all reports, and the replicas that there are; ARGV the replica, its report, milliseconds.
"""


class SharedAllowances:
    """Has the limits of API keys hold over all replicas.

    `allowances` gives those that have limits, by the names of their keys.
    """

    def __init__(
        self,
        report: Callable[..., Awaitable[Any]],
        keys: list[str],
        allowances: Callable[[], Mapping[str, Allowance]],
    ) -> None:
        self._report = report
        self._keys = keys
        self._allowances = allowances

    async def beat(self, replica: str, milliseconds: int, now: float) -> None:
        """Report what was used until `now`, on the monotonic clock; take in the others' reports."""
        allowances = self._allowances()
        if not allowances:
            return
        report = json.dumps({name: one.spent(now) for name, one in allowances.items()})
        reports = await self._report(keys=self._keys, args=[replica, report, milliseconds])
        in_flight, requests, tokens = Counter[str](), Counter[str](), Counter[str]()
        for text in reports:
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
