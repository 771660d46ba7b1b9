-- Renew a lease, or end it.
--
-- KEYS[1] umbel:lease  hash  incarnation -> renewals, or "dead <renewals>"
-- ARGV    incarnation, 'renew'
--         incarnation, 'end', the renewals at which it must stand or ''
--
-- Returns 1 if that was done; 0 if the incarnation is gone, dead (renew) or has moved on (end).
local lease = redis.call('HGET', KEYS[1], ARGV[1])
if not lease then return 0 end
local dead = string.byte(lease) == 100
local renewals = string.match(lease, '%d+$')
if ARGV[2] == 'renew' then
  if dead then return 0 end
  redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
  return 1
end
if ARGV[3] ~= '' and ARGV[3] ~= renewals then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], 'dead ' .. renewals)
return 1
