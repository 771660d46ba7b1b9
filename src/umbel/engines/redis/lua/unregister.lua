-- Remove an incarnation that holds nothing.
--
-- KEYS[1] umbel:lease        hash    incarnation -> renewals
-- KEYS[2] umbel:worker       hash    incarnation -> record
-- KEYS[3] umbel:node         hash    node name -> incarnation
-- KEYS[4] umbel:claims:<w>   hash    number -> head + envelope
-- KEYS[5] umbel:early:<w>    set     numbers
-- KEYS[6] umbel:claimed:<w>  string  its last claim
-- KEYS[7] umbel:settled:<w>  string  its last settlement
-- ARGV    incarnation, node name
--
-- Returns 1; 0 while it holds claims, or if it is gone.
if redis.call('EXISTS', KEYS[4]) == 1 then return 0 end
if redis.call('HDEL', KEYS[2], ARGV[1]) == 0 then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
if redis.call('HGET', KEYS[3], ARGV[2]) == ARGV[1] then redis.call('HDEL', KEYS[3], ARGV[2]) end
redis.call('DEL', KEYS[5], KEYS[6], KEYS[7])
return 1
