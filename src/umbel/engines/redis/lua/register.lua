-- Add a worker incarnation.
--
-- KEYS[1] umbel:node     hash  node name -> incarnation
-- KEYS[2] umbel:counter  hash  worker: the last incarnation's number
-- KEYS[3] umbel:worker   hash  incarnation -> record
-- KEYS[4] umbel:lease    hash  incarnation -> renewals
-- ARGV    node name, record
--
-- Returns its number; or {number, record, lease} of the one that has the name.
local other = redis.call('HGET', KEYS[1], ARGV[1])
if other then
  return {other, redis.call('HGET', KEYS[3], other), redis.call('HGET', KEYS[4], other)}
end
-- A store that replaces this one must not give the same numbers to others.
if redis.call('HEXISTS', KEYS[2], 'worker') == 0 then
  redis.call('HSET', KEYS[2], 'worker', redis.call('TIME')[1])
end
local number = redis.call('HINCRBY', KEYS[2], 'worker', 1)
redis.call('HSET', KEYS[1], ARGV[1], number)
redis.call('HSET', KEYS[3], number, ARGV[2])
redis.call('HSET', KEYS[4], number, 0)
return number
