--[[
  Takes the first ids out of several windows: by priority, and inside one priority turn and turn about between queues.

  KEYS[2*q - 1]   window   of the q-th queue, see push.lua
  KEYS[2*q]       meta     see push.lua

  ARGV[1]         the most ids of one window
  ARGV[2]         the most ids to take in all
  ARGV[3]         which queue begins each round, from 0
  ARGV[3 + q]     the most ids to take from the q-th queue

  Returns two lists: the ids in order, and the positions (from 1) of the queues that run low: those that are not known
  to hold all that waits, and that hold less than a quarter of a window or may lack a task in the middle. A queue that
  nobody knows, as after a FLUSHALL, is such a one.
]]
local PRIORITY_STEP = 2 ^ 49
local size, limit, turn = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local count = #KEYS / 2
local block = math.max(16, math.ceil(limit / count))

-- Entries are read in blocks, not removed one by one: what is taken of a window are its first entries.
local heads = {}
for q = 1, count do
  heads[q] = { entries = {}, at = 1, taken = 0, allowance = math.min(limit, tonumber(ARGV[3 + q])), more = true }
end

-- The priority of the next entry that may be taken from a queue.
local function priority(q)
  local head = heads[q]
  if head.at > #head.entries and head.more then
    local last = math.min(head.allowance, head.taken + block) - 1
    if last < head.taken then
      head.more = false
      return nil
    end
    head.entries = redis.call('ZRANGE', KEYS[2 * q - 1], head.taken, last, 'WITHSCORES')
    head.at = 1
    head.more = #head.entries == 2 * (last - head.taken + 1)
  end
  local score = head.entries[head.at + 1]
  return score and math.floor(tonumber(score) / PRIORITY_STEP)
end

local ids = {}

-- The queue that has something, if it is the only one, as nearly always: then there is nothing to weigh.
local function only_one()
  local only = nil
  for q = 1, count do
    if heads[q].allowance > 0 and redis.call('ZCARD', KEYS[2 * q - 1]) > 0 then
      if only then
        return nil
      end
      only = q
    end
  end
  return only
end

local only = only_one()
if only then
  -- Not by ZPOPMIN: it writes out each score, which takes longer than finding it.
  ids = redis.call('ZRANGE', KEYS[2 * only - 1], 0, heads[only].allowance - 1)
  heads[only].taken = #ids
end

while not only and #ids < limit do
  local best = nil
  for q = 1, count do
    local its = priority(q)
    if its and (not best or its < best) then
      best = its
    end
  end
  if not best then
    break
  end
  local round = {}
  for step = 0, count - 1 do
    local q = (turn + step) % count + 1
    if priority(q) == best then
      round[#round + 1] = q
    end
  end
  while #round > 0 and #ids < limit do
    local next_round = {}
    for _, q in ipairs(round) do
      if #ids == limit then
        break
      end
      local head = heads[q]
      ids[#ids + 1] = head.entries[head.at]
      head.at = head.at + 2
      head.taken = head.taken + 1
      if priority(q) == best then
        next_round[#next_round + 1] = q
      end
    end
    round = next_round
  end
end

local low = {}
for q = 1, count do
  local window, meta = KEYS[2 * q - 1], KEYS[2 * q]
  if heads[q].taken > 0 then
    redis.call('ZREMRANGEBYRANK', window, 0, heads[q].taken - 1)
  end
  local state = redis.call('HMGET', meta, 'complete', 'torn')
  if state[1] ~= '1' and (state[2] == '1' or redis.call('ZCARD', window) * 4 < size) then
    low[#low + 1] = q
  end
end
return { ids, low }
