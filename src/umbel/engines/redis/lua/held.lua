-- What an incarnation holds, without the envelopes.
--
-- KEYS    umbel:claims:<w>  hash  number -> head + envelope
-- ARGV    none: returns {queue, count, ...} over all keys; one: an envelope, returns whether it is
--         among them (1 or 0)
if ARGV[1] then
  for _, key in ipairs(KEYS) do
    for _, held in ipairs(redis.call('HVALS', key)) do
      if string.sub(held, -#ARGV[1]) == ARGV[1] then return 1 end
    end
  end
  return 0
end
local counts, reply = {}, {}
for _, key in ipairs(KEYS) do
  for _, held in ipairs(redis.call('HVALS', key)) do
    local queue = string.match(held, '^%d+%z%d+%z%d+%z[^%z]*%z([^%z]*)%z')
    counts[queue] = (counts[queue] or 0) + 1
  end
end
for queue, count in pairs(counts) do
  reply[#reply + 1] = queue
  reply[#reply + 1] = count
end
return reply
