-- Forget the name of an empty queue.
--
-- KEYS[1] umbel:queues   zset  name -> when it was last said to be in use
-- KEYS[2] umbel:due:<q>  zset  its delayed messages
-- KEYS[3...]             list  its lists
-- ARGV    name
for key = 2, #KEYS do
  if redis.call('EXISTS', KEYS[key]) == 1 then return 0 end
end
return redis.call('ZREM', KEYS[1], ARGV[1])
