--[[
  Ends a refill: puts the first waiting tasks of a queue into its window, as they were read from the store after
  mark.lua, together with what has been skipped since.

  KEYS[1]  queues   see push.lua, also for the others
  KEYS[2]  window
  KEYS[3]  meta
  KEYS[4]  late

  ARGV[1]  the most ids of one window
  ARGV[2]  the mark
  ARGV[3]  '1' if the store had no more than these
  ARGV[4]  the queue's name
  then     score and id of each task, in order, at most a window

  Returns 1 if the window now holds all that waits, else 0.
]]
local queues, window, meta, late = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local size, mark, is_all = tonumber(ARGV[1]), ARGV[2], ARGV[3] == '1'

-- In pieces: a call with too many arguments overflows Lua's stack.
local function add(entries, from)
  for at = from, #entries, 1000 do
    redis.call('ZADD', window, unpack(entries, at, math.min(at + 999, #entries)))
  end
end

-- The score of the last entry.
local function edge()
  return tonumber(redis.call('ZRANGE', window, -1, -1, 'WITHSCORES')[2] or -1)
end

local state = redis.call('HMGET', meta, 'complete', 'skipped', 'late_since', 'marks')
local complete, skipped, late_since, marks = state[1] == '1', state[2], state[3], tonumber(state[4] or 0)
local old_edge = edge()
if #ARGV > 4 then
  redis.call('SADD', queues, ARGV[4])
end
add(ARGV, 5)

-- Nothing is missing if nothing was skipped since the mark, or all of it was kept. A mark from before a FLUSHALL is
-- lower than any number of the new counter, so it never passes.
local whole = skipped == mark
if not whole and late_since and tonumber(late_since) <= tonumber(mark) then
  whole = true
  local last = is_all and '+inf' or string.format('%.0f', edge())
  local kept = redis.call('ZRANGEBYSCORE', late, '-inf', last, 'WITHSCORES')
  for at = 1, #kept, 2 do
    kept[at], kept[at + 1] = kept[at + 1], kept[at]
  end
  add(kept, 1)
end

if not is_all then
  -- The store has more than a refill takes, so a window that seemed to hold it all has lost something.
  complete = false
  redis.call('HDEL', meta, 'complete')
elseif whole then
  complete = true
  redis.call('HSET', meta, 'complete', '1')
end

-- What is too much is in the store; it is skipped like a push that finds no place.
local excess = redis.call('ZCARD', window) - size
if excess > 0 then
  complete = false
  redis.call('HDEL', meta, 'complete')
  local dropped = redis.call('ZPOPMAX', window, excess)
  if late_since then
    for at = 1, #dropped, 2 do
      redis.call('ZADD', late, dropped[at + 1], dropped[at])
    end
  end
  if not skipped then
    local now = redis.call('TIME')
    redis.call('HSET', meta, 'skipped', string.format('%.0f', now[1] * 1000000 + now[2]))
  end
  redis.call('HINCRBY', meta, 'skipped', excess)
end

-- The last of several refills ends the keeping of late ids; so does a set of them that has outgrown the window.
if late_since then
  if marks <= 1 or redis.call('ZCARD', late) > size then
    redis.call('UNLINK', late)
    redis.call('HDEL', meta, 'late_since', 'marks')
  else
    redis.call('HINCRBY', meta, 'marks', -1)
  end
end

if complete then
  redis.call('HDEL', meta, 'torn')
elseif not whole and edge() > old_edge then
  redis.call('HSET', meta, 'torn', '1')
elseif whole and (#ARGV == 4 or edge() <= tonumber(ARGV[#ARGV - 1])) then
  -- The store's own order reaches to the window's end, so nothing is missing before it.
  redis.call('HDEL', meta, 'torn')
end
return complete and 1 or 0
