-- Put dead letters back into their queues; their tasks are pending again.
--
-- KEYS[1] umbel:dead          hash    number -> dead letter
-- KEYS[2] umbel:dead:message  hash    number -> head + envelope
-- KEYS[3...]                  for each letter its list, its result (string), that one's status
--                             (string)
-- ARGV    numbers
--
-- Returns how many were there.
local done = 0
for i, number in ipairs(ARGV) do
  local held = redis.call('HGET', KEYS[2], number)
  if held and redis.call('HDEL', KEYS[1], number) == 1 then
    redis.call('HDEL', KEYS[2], number)
    local base = 3 * i
    local envelope = string.match(held, '^%d+%z%d+%z%d+%z[^%z]*%z[^%z]*%z(.*)$')
    redis.call('LPUSH', KEYS[base], envelope)
    redis.call('DEL', KEYS[base + 1], KEYS[base + 2])
    done = done + 1
  end
end
return done
