--[[
  Takes tasks out of a queue, wherever they stand in it. Whoever does so pushes them to another place next.

  KEYS[1]  window   see push.lua
  KEYS[2]  late     see push.lua

  ARGV     the ids

  Returns how many stood there.
]]
local withdrawn = 0
-- In pieces: a call with too many arguments overflows Lua's stack.
for from = 1, #ARGV, 1000 do
  local last = math.min(from + 999, #ARGV)
  withdrawn = withdrawn + redis.call('ZREM', KEYS[1], unpack(ARGV, from, last))
  redis.call('ZREM', KEYS[2], unpack(ARGV, from, last))
end
return withdrawn
