-- Move periodic tasks on, each with the messages of its ticks, or not at all.
--
-- KEYS[1] umbel:schedule      hash  name -> version NUL due NUL body
-- KEYS[2] umbel:schedule:due  zset  name -> due
-- KEYS[3...]                  as the steps name them by index: lists, umbel:due, umbel:tags,
--                             umbel:later
-- ARGV    for each change: name, the version that it starts from ('' if there is none), what becomes
--         of it ('' if it is removed), when it is due ('' if never), how many steps follow, and these:
--         'l' list, envelope                    publish
--         'd' due (tags and later follow), member, due time, envelope
--
-- Versions are compared as text: they have more digits than Lua's numbers. A change that was made
-- already, as its answer was lost, is not made again.
--
-- Returns the names of the changes that were refused.
local refused = {}
local at, last = 1, #ARGV
while at < last do
  local name, from, value, due = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local steps = tonumber(ARGV[at + 4])
  at = at + 5
  local held = redis.call('HGET', KEYS[1], name)
  local version = held and string.match(held, '^%d+') or ''
  local fits = version == from
  if fits then
    if value == '' then
      redis.call('HDEL', KEYS[1], name)
    else
      redis.call('HSET', KEYS[1], name, value)
    end
    if due == '' then
      redis.call('ZREM', KEYS[2], name)
    else
      redis.call('ZADD', KEYS[2], due, name)
    end
  elseif version == '' or version ~= string.match(value, '^%d*') then
    refused[#refused + 1] = name
  end
  for _ = 1, steps do
    local what = ARGV[at]
    if what == 'l' then
      if fits then redis.call('LPUSH', KEYS[tonumber(ARGV[at + 1])], ARGV[at + 2]) end
      at = at + 3
    elseif what == 'd' then
      if fits then
        local delayed, member = tonumber(ARGV[at + 1]), ARGV[at + 2]
        if redis.call('HSETNX', KEYS[delayed + 2], member, ARGV[at + 4]) == 1 then
          redis.call('ZADD', KEYS[delayed], ARGV[at + 3], member)
          redis.call('ZADD', KEYS[delayed + 1], 0, member)
        end
      end
      at = at + 5
    else
      return redis.error_reply('ERR schedule: unknown step ' .. tostring(what))
    end
  end
end
return refused
