--[[
  Begins a refill: from here on, what is skipped is also kept, until refill.lua merges it with what the store had.

  KEYS[1]  meta   see push.lua

  Returns the counter of skipped ids, as a string.
]]
local skipped = redis.call('HGET', KEYS[1], 'skipped')
if not skipped then
  local now = redis.call('TIME')
  skipped = string.format('%.0f', now[1] * 1000000 + now[2])
  redis.call('HSET', KEYS[1], 'skipped', skipped)
end
redis.call('HSETNX', KEYS[1], 'late_since', skipped)
redis.call('HINCRBY', KEYS[1], 'marks', 1)
return skipped
