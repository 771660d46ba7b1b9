-- Look whether there is anything to claim. Whoever runs this with tracking hears of the next change.
--
-- KEYS[1] umbel:paused       set     queues
-- KEYS[2] umbel:revoked      zset    id -> the set's version
-- then for each queue:
--         umbel:due:<q>      zset    member -> due
--         its lists          list    envelopes
-- ARGV    number of lists of a queue, the name of each queue
--
-- Returns {1 if a queue that is not paused has ready messages, else 0, next due or false, the newest
-- version of a revocation}.
local levels = tonumber(ARGV[1])
local found, next_due = 0, false
for queue = 1, #ARGV - 1 do
  local base = 3 + (queue - 1) * (1 + levels)
  local due = redis.call('ZRANGE', KEYS[base], 0, 0, 'WITHSCORES')[2]
  if due and (not next_due or tonumber(due) < tonumber(next_due)) then next_due = due end
  local paused = redis.call('SISMEMBER', KEYS[1], ARGV[1 + queue]) == 1
  for level = 1, levels do
    if redis.call('EXISTS', KEYS[base + level]) == 1 and not paused then found = 1 end
  end
end
local newest = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')[2]
return {found, next_due, tonumber(newest or 0)}
