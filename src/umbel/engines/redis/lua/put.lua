-- Store results outside of a settlement.
--
-- KEYS    celery-task-meta-<id> (string) and umbel:status:<id> (string), as named by index
-- ARGV    for each result: index of its key, ttl in ms or '', meta, index of its status' key or 0,
--         status, 1 if it is none of the ends
for at = 1, #ARGV, 6 do
  store(
    KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2], KEYS[tonumber(ARGV[at + 3])],
    ARGV[at + 4], ARGV[at + 5] == '1'
  )
end
return #ARGV / 6
