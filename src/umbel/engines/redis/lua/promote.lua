-- Make ready what is due in one queue.
--
-- KEYS[1] umbel:due:<q>    zset  member -> due
-- KEYS[2] umbel:tags:<q>   zset  members
-- KEYS[3] umbel:later:<q>  hash  member -> envelope
-- KEYS[4...]               list  the queue's lists
-- ARGV    now, most to make ready, the step of each list
--
-- Returns how many became ready.
local ready = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
if #ready == 0 then return 0 end
for _, member in ipairs(ready) do
  local step, list = string.match(member, '%z(%d+)$'), KEYS[4]
  for i = 3, #ARGV do
    if ARGV[i] == step then list = KEYS[i + 1] end
  end
  local envelope = redis.call('HGET', KEYS[3], member)
  if envelope then redis.call('LPUSH', list, envelope) end
end
redis.call('ZREM', KEYS[1], unpack(ready))
redis.call('ZREM', KEYS[2], unpack(ready))
redis.call('HDEL', KEYS[3], unpack(ready))
return #ready
