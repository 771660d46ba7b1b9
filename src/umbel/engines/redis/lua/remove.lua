-- Take the waiting messages of one revoked task out, and store its result if there was any.
--
-- KEYS[1] celery-task-meta-<id>  string  result
-- KEYS[2] umbel:status:<id>      string  its status, where the meta is not JSON
-- KEYS[3...]                     lists, and umbel:due, umbel:tags, umbel:later one after the other,
--                                and those of flow.lua
-- ARGV    ttl in ms or '', meta, status or '' (the meta is JSON), how many messages, for each
--         'l', index of its list, envelope
--         'd', index of umbel:due, member
--         and the steps of flow.lua, of its workflow
--
-- Returns how many were waiting, and id and body of the chords that have become complete.
local gone, at = 0, 5
for _ = 1, tonumber(ARGV[4]) do
  local key, what = tonumber(ARGV[at + 1]), ARGV[at + 2]
  if ARGV[at] == 'l' then
    gone = gone + redis.call('LREM', KEYS[key], -1, what)
  else
    gone = gone + redis.call('HDEL', KEYS[key + 2], what)
    redis.call('ZREM', KEYS[key], what)
    redis.call('ZREM', KEYS[key + 1], what)
  end
  at = at + 3
end
if gone > 0 then
  local status_key = ARGV[3] ~= '' and KEYS[2] or nil
  store(KEYS[1], ARGV[1], ARGV[2], status_key, ARGV[3])
  while at and at <= #ARGV do at = change(at, true) end
end
return {gone, joined}
