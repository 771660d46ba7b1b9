-- End claims of one worker incarnation, each with all that follows from it or not at all.
--
-- KEYS[1] umbel:claims:<w>    hash    number -> head + envelope; HDEL of it is the fence
--         or umbel:joined     hash    id -> body of a complete chord, so too
-- KEYS[2] umbel:early:<w>     set     numbers
-- KEYS[3] umbel:settled:<w>   string  token of the last call, and what it refused
-- KEYS[4] umbel:history       list    ended attempts
-- KEYS[5] umbel:failed        list    those that did not succeed
-- KEYS[6] umbel:counter       hash    dead
-- KEYS[7] umbel:dead          hash    number -> dead letter
-- KEYS[8] umbel:dead:message  hash    number -> head + envelope
-- KEYS[9] umbel:notes         hash    SHA-1 of an envelope -> what is known of it
-- KEYS[10...]                 as the steps name them by index: lists, results (string), status
--                             (string), umbel:due, umbel:tags, umbel:later,
--                             and those of flow.lua
-- ARGV    token, rows of history, seconds that notes live, then for each settlement its number, how
--         many steps follow, and these:
--         'r' result, ttl in ms or '', meta, 0 or the index of its status, status
--         'l' list, envelope                    publish
--         'b' list, envelope                    put back, where it is claimed next
--         'd' due (tags and later follow), member, due time, envelope
--         'n' SHA-1, notes
--         'x' dead letter, head + envelope
--         'h' entry / 'f' entry                 history; of a failure
--         and those of flow.lua
--
-- Returns the numbers of the settlements that were refused, and id and body of the chords that have
-- become complete.
local token = ARGV[1]
local before = redis.call('GET', KEYS[3])
if before and string.sub(before, 1, #token + 1) == token .. ' ' then
  local refused = {}
  for number in string.gmatch(string.sub(before, #token + 2), '%S+') do
    refused[#refused + 1] = number
  end
  redis.call('EXPIRE', KEYS[3], 60)  -- a write, for those who wait until replicas have it
  return {refused, {}}
end

local refused, history, failed, ended, backs = {}, {}, {}, {}, {}
local at, last = 4, #ARGV
while at < last do
  local number, steps = ARGV[at], tonumber(ARGV[at + 1])
  at = at + 2
  local held = redis.call('HDEL', KEYS[1], number) == 1
  if held then ended[#ended + 1] = number else refused[#refused + 1] = number end
  for _ = 1, steps do
    local what = ARGV[at]
    if what == 'r' then
      if held then
        local status = KEYS[tonumber(ARGV[at + 4])]
        store(KEYS[tonumber(ARGV[at + 1])], ARGV[at + 2], ARGV[at + 3], status, ARGV[at + 5])
      end
      at = at + 6
    elseif what == 'h' then
      if held then history[#history + 1] = ARGV[at + 1] end
      at = at + 2
    elseif what == 'f' then
      if held then
        history[#history + 1] = ARGV[at + 1]
        failed[#failed + 1] = ARGV[at + 1]
      end
      at = at + 2
    elseif what == 'l' then
      if held then redis.call('LPUSH', KEYS[tonumber(ARGV[at + 1])], ARGV[at + 2]) end
      at = at + 3
    elseif what == 'b' then
      if held then
        backs[#backs + 1] = {tonumber(number), KEYS[tonumber(ARGV[at + 1])], ARGV[at + 2]}
      end
      at = at + 3
    elseif what == 'd' then
      if held then
        local due, member = tonumber(ARGV[at + 1]), ARGV[at + 2]
        if redis.call('HSETNX', KEYS[due + 2], member, ARGV[at + 4]) == 1 then
          redis.call('ZADD', KEYS[due], ARGV[at + 3], member)
          redis.call('ZADD', KEYS[due + 1], 0, member)
        end
      end
      at = at + 5
    elseif what == 'n' then
      if held then
        redis.call('HSET', KEYS[9], ARGV[at + 1], ARGV[at + 2])
        redis.call('EXPIRE', KEYS[9], ARGV[3])
      end
      at = at + 3
    elseif what == 'x' then
      if held then
        local letter = redis.call('HINCRBY', KEYS[6], 'dead', 1)
        redis.call('HSET', KEYS[7], letter, ARGV[at + 1])
        redis.call('HSET', KEYS[8], letter, ARGV[at + 2])
      end
      at = at + 3
    else
      at = change(at, held)
      if not at then return redis.error_reply('ERR settle: unknown step ' .. tostring(what)) end
    end
  end
end
-- The oldest is pushed last, so it is the first to be claimed again.
table.sort(backs, function(a, b) return a[1] > b[1] end)
for _, back in ipairs(backs) do redis.call('RPUSH', back[2], back[3]) end
if #ended > 0 and redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('SREM', KEYS[2], unpack(ended))
end
local rows = tonumber(ARGV[2]) - 1
if #history > 0 then
  redis.call('LPUSH', KEYS[4], unpack(history))
  redis.call('LTRIM', KEYS[4], 0, rows)
end
if #failed > 0 then
  redis.call('LPUSH', KEYS[5], unpack(failed))
  redis.call('LTRIM', KEYS[5], 0, rows)
end
redis.call('SET', KEYS[3], token .. ' ' .. table.concat(refused, ' '), 'EX', 60)
return {refused, joined}
