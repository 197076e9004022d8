"""What the store runs as one step each.

https://valkey.io/topics/lua-api/
"""

from typing import Final

ENTER: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local begun = redis.call('GET', KEYS[2])
if not begun or now - begun < tonumber(ARGV[5]) then return {-1, 0} end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local leases = redis.call('ZRANGE', KEYS[1], 0, -1)
local slot, free = string.match(ARGV[2], '#(.*)'), #leases < tonumber(ARGV[3])
local told = {0, 0}
for _, lease in ipairs(leases) do
  if string.sub(lease, 1, #ARGV[1]) ~= ARGV[1] then
    local theirs = string.match(lease, '#(.*)')
    told[2] = told[2] + 1
    if theirs then told[#told + 1] = theirs end
    if slot and theirs == slot then free = false end
  end
end
if free then
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[4]), ARGV[2])
  redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[4]) * 2)
  told[1] = 1
end
return told
"""
"""Takes a place (1), or does not (0), and returns how many others have, and in which slots.

It must be in a slot that no other replica has asked for, if it is in a certain one: that is the
end of its name, from `#` on. A store that has forgotten everything cannot say (-1) until each
replica has renewed its leases. KEYS are the server's leases, and since when the store remembers;
ARGV the replica, the lease, the limit, for how many milliseconds, and for how many it cannot say.
"""

LEAVE: Final = """
for at = 1, #KEYS do
  redis.call('ZREM', KEYS[at], ARGV[2 * at])
  redis.call('PUBLISH', ARGV[1], ARGV[2 * at + 1])
end
return 0
"""
"""Gives places back and says so: ARGV are the channel, and for each key a lease and a message."""

RENEW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ttl = tonumber(ARGV[2])
redis.call('ZADD', KEYS[1], now + ttl, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('PEXPIRE', KEYS[1], ttl * 2)
redis.call('SET', KEYS[2], ARGV[3] == '1' and 0 or now, 'NX')
local counts = {now, redis.call('ZRANGE', KEYS[1], 0, -1)}
local at = 4
for key = 3, #KEYS do
  local mine = {}
  local asking = at + 2 + tonumber(ARGV[at])
  local last = asking - 1 + tonumber(ARGV[at + 1])
  for lease = at + 2, last do
    mine[ARGV[lease]] = true
    if lease < asking then redis.call('ZADD', KEYS[key], now + ttl, ARGV[lease]) end
  end
  at = last + 1
  redis.call('ZREMRANGEBYSCORE', KEYS[key], '-inf', now)
  counts[key] = 0
  for _, lease in ipairs(redis.call('ZRANGE', KEYS[key], 0, -1)) do
    if string.sub(lease, 1, #ARGV[1]) ~= ARGV[1] then
      counts[key] = counts[key] + 1
    elseif not mine[lease] then
      redis.call('ZREM', KEYS[key], lease)
    end
  end
  redis.call('PEXPIRE', KEYS[key], ttl * 2)
end
return counts
"""
"""Renews all leases of a replica, and drops those of its own that it does not know.

KEYS are the replicas, since when the store remembers, then each server's leases; ARGV the replica,
milliseconds, whether it is new, and for each server how many leases it has there, for how many it
is just asking, and they. Returns the time in milliseconds, the replicas, and how many leases the
others have at each server.
"""
