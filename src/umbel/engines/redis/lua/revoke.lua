-- Note that task ids are revoked.
--
-- KEYS[1] umbel:counter        hash  revocation: the set's version
-- KEYS[2] umbel:revoked        zset  id -> version
-- KEYS[3] umbel:revoked:until  zset  id -> end (Unix time)
-- ARGV    end, ms until that, ids
for at = 3, #ARGV do
  local version = redis.call('HINCRBY', KEYS[1], 'revocation', 1)
  redis.call('ZADD', KEYS[2], version, ARGV[at])
  redis.call('ZADD', KEYS[3], ARGV[1], ARGV[at])
end
for key = 2, 3 do
  if tonumber(ARGV[2]) > redis.call('PTTL', KEYS[key]) then
    redis.call('PEXPIRE', KEYS[key], ARGV[2])
  end
end
return #ARGV - 2
