-- Note that task ids are revoked.
--
-- KEYS[1] umbel:counter         hash  revocation: the set's version
-- KEYS[2] umbel:revoked         zset  id -> version
-- KEYS[3] umbel:revoked:until   zset  id -> end (Unix time)
-- KEYS[4] umbel:revoked:signal  hash  id -> signal by which it is to be ended where it runs
-- ARGV    end, ms until that, signal (0: none), ids
for at = 4, #ARGV do
  local version = redis.call('HINCRBY', KEYS[1], 'revocation', 1)
  redis.call('ZADD', KEYS[2], version, ARGV[at])
  redis.call('ZADD', KEYS[3], ARGV[1], ARGV[at])
  if ARGV[3] ~= '0' then
    redis.call('HSET', KEYS[4], ARGV[at], ARGV[3])
  end
end
for key = 2, 4 do
  if tonumber(ARGV[2]) > redis.call('PTTL', KEYS[key]) then
    redis.call('PEXPIRE', KEYS[key], ARGV[2])
  end
end
return #ARGV - 3
