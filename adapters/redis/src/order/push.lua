--[[
  Adds waiting tasks to the windows of their queues, as far as they belong there, and tells the workers.

  A complete window holds all that waits: everything is added, and what then exceeds the window's size is dropped from
  its end, which makes it incomplete. An incomplete window takes only what sorts before its last entry. What is dropped
  or not taken is counted as skipped, and kept among the late ids while somebody refills the window.

  KEYS[1]          queues   the set of queue names
  then per queue:
  KEYS[3*q - 1]    window   sorted set: member = id, score = priority * 2^49 + rank
  KEYS[3*q]        meta     hash: complete    '1' while the window holds all that waits in the queue
                                  skipped     a counter of skipped ids; begins at the time in µs, so that one that began
                                              anew after a FLUSHALL is never mistaken for its predecessor
                                  torn        '1' while a task may be missing before the window's last entry
                                  late_since  the value of `skipped` when the keeping of late ids began; absent when
                                              none are kept
                                  marks       how many refills are under way since then
  KEYS[3*q + 1]    late     sorted set like the window: what was skipped since late_since

  ARGV[1]          the most ids of one window
  ARGV[2]          the channel that workers listen to
  ARGV[3]          the message to them
  then per queue:  its name, the number n of its tasks, n times score and id

  Returns how many ids were skipped in all, and how many were told.
]]
local size, channel, message = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local skipped_in_all = 0

-- ZADD in pieces: a call with too many arguments overflows Lua's stack.
local function add(key, entries)
  for from = 1, #entries, 1000 do
    redis.call('ZADD', key, unpack(entries, from, math.min(from + 999, #entries)))
  end
end

local function skip(meta, late, keep, entries)
  if redis.call('HEXISTS', meta, 'skipped') == 0 then
    local now = redis.call('TIME')
    redis.call('HSET', meta, 'skipped', string.format('%.0f', now[1] * 1000000 + now[2]))
  end
  redis.call('HINCRBY', meta, 'skipped', #entries / 2)
  if keep then
    add(late, entries)
    if redis.call('ZCARD', late) > size then
      redis.call('UNLINK', late)
      redis.call('HDEL', meta, 'late_since', 'marks')
    end
  end
  skipped_in_all = skipped_in_all + #entries / 2
end

local at = 4
for key = 2, #KEYS, 3 do
  local window, meta, late = KEYS[key], KEYS[key + 1], KEYS[key + 2]
  local name, count = ARGV[at], tonumber(ARGV[at + 1])
  redis.call('SADD', KEYS[1], name)

  local state = redis.call('HMGET', meta, 'complete', 'late_since')
  local edge = math.huge
  if state[1] ~= '1' then
    local last = redis.call('ZRANGE', window, -1, -1, 'WITHSCORES')
    edge = tonumber(last[2] or -1)
  end
  local taken, skipped = {}, {}
  for entry = at + 2, at + 2 * count, 2 do
    local into = tonumber(ARGV[entry]) <= edge and taken or skipped
    into[#into + 1] = ARGV[entry]
    into[#into + 1] = ARGV[entry + 1]
  end
  at = at + 2 + 2 * count

  add(window, taken)
  local excess = redis.call('ZCARD', window) - size
  if excess > 0 then
    redis.call('HDEL', meta, 'complete')
    local dropped = redis.call('ZPOPMAX', window, excess)
    for entry = 1, #dropped, 2 do
      skipped[#skipped + 1] = dropped[entry + 1]
      skipped[#skipped + 1] = dropped[entry]
    end
  end
  if #skipped > 0 then
    skip(meta, late, state[2], skipped)
  end
end

-- Refused to a user without the right to it: then workers look by themselves, and the tasks are in their windows.
local told = redis.pcall('PUBLISH', channel, message)
return { skipped_in_all, tonumber(told) or 0 }
