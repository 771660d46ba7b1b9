-- Publish messages, and what has to be known of their workflow, all or nothing.
--
-- KEYS[1] umbel:sent:<token>  string  that this very call was made; TTL 60 s
-- KEYS[2...]                  as the steps name them by index: lists, umbel:due, umbel:tags,
--                             umbel:later, and those of flow.lua
-- ARGV    the steps of flow.lua, and:
--         'r' result, ttl in ms or '', meta, 0 or the index of its status, status
--         'l' list, envelope
--         'd' due (tags and later follow), member, due time, envelope
--
-- Returns id and body of the chords that have become complete.
if redis.call('EXISTS', KEYS[1]) == 1 then return {} end
local at, last = 1, #ARGV
while at <= last do
  local key = tonumber(ARGV[at + 1])
  if ARGV[at] == 'r' then
    store(KEYS[key], ARGV[at + 2], ARGV[at + 3], KEYS[tonumber(ARGV[at + 4])], ARGV[at + 5])
    at = at + 6
  elseif ARGV[at] == 'l' then
    redis.call('LPUSH', KEYS[key], ARGV[at + 2])
    at = at + 3
  elseif ARGV[at] == 'd' then
    if redis.call('HSETNX', KEYS[key + 2], ARGV[at + 2], ARGV[at + 4]) == 1 then
      redis.call('ZADD', KEYS[key], ARGV[at + 3], ARGV[at + 2])
      redis.call('ZADD', KEYS[key + 1], 0, ARGV[at + 2])
    end
    at = at + 5
  else
    at = change(at, true)
    if not at then return redis.error_reply('ERR send: unknown step') end
  end
end
redis.call('SET', KEYS[1], 1, 'EX', 60)
return joined
