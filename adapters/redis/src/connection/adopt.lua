--[[
  Forgets every window when this server process is not the one that they were written to: what a restart brought back
  from an old dump, or what a replica had when it was promoted, may lack the last changes while it looks whole.

  KEYS[1]  server   the run id of the server process that the windows were written to
  KEYS[2]  queues   the set of queue names; kept, as a hint where to look

  ARGV[1]  the run id of this server process
  ARGV[2]  what all keys begin with; the other keys are named from it, in the same hash slot

  Returns how many queues were forgotten: 0 when this process is known, or none was ever written.
]]
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1])
local queues = redis.call('SMEMBERS', KEYS[2])
for _, queue in ipairs(queues) do
  redis.call('UNLINK', ARGV[2] .. 'window:' .. queue, ARGV[2] .. 'meta:' .. queue, ARGV[2] .. 'late:' .. queue)
end
return #queues
