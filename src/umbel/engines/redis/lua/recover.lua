-- Put back what dead Celery workers left unacknowledged.
--
-- KEYS[1] unacked        hash  delivery tag -> [envelope, exchange, routing key]
-- KEYS[2] unacked_index  zset  delivery tag -> Unix time at which it was received
-- KEYS[3...]             list  where the envelopes go
-- ARGV    for each: tag, value in unacked, score in unacked_index or '', index of its list, envelope
--
-- What is not as it was looked at has been acknowledged or taken over: it is left alone.
-- Returns the tags of what was put back.
local done = {}
for at = 1, #ARGV, 5 do
  local tag, score = ARGV[at], ARGV[at + 2]
  local now = redis.call('ZSCORE', KEYS[2], tag) or ''
  if now == score and redis.call('HGET', KEYS[1], tag) == ARGV[at + 1] then
    redis.call('HDEL', KEYS[1], tag)
    redis.call('ZREM', KEYS[2], tag)
    redis.call('RPUSH', KEYS[tonumber(ARGV[at + 3])], ARGV[at + 4])
    done[#done + 1] = tag
  end
end
return done
