-- Shared by the scripts that change workflows; it comes before them.
--
-- A chord's keys lie one after the other; a step names the first by its index:
-- +0 celery-taskset-meta-<id>.s  string     size
-- +1 celery-taskset-meta-<id>.j  zset, list the parts so far
-- +2 celery-taskset-meta-<id>.t  string     by how many members it has grown
-- +3 celery-taskset-meta-<id>.d  set        what was counted
-- +4 celery-taskset-meta-<id>.c  string     who sends the body, then "done"
-- +5 umbel:chord:<id>            string     the body's message
-- +6 umbel:parts:<id>            zset, list the parts of a complete one
-- +7 umbel:joined                hash       id -> the body's message, of those complete
-- and of kept steps:
-- +0 umbel:kept:<id>             list       steps
--
-- The steps, each a row of ARGV:
-- 'co' chord, size, ttl in ms or '', body              begin it, unless it is there
-- 'cg' chord, more                                     let it grow
-- 'cp' chord, id, place, key, task id, data, body, ttl count a part; body and ttl are '' unless
--                                                      Celery may have begun it
-- 'cd' chord                                           drop it
-- 'kk' kept, ttl in ms or '', count, step...           keep steps, unless they are there
-- 'kd' kept                                            drop them
local DONE = 300  -- seconds for which Celery remembers that a chord is done
local joined = {}  -- id, body, ... of the chords that have become complete

local function set(key, value, ttl)
  if ttl == '' then return redis.call('SET', key, value, 'NX') end
  return redis.call('SET', key, value, 'NX', 'PX', ttl)
end

local function count_part(k, id, place, key, task, data, body, ttl)
  local size = redis.call('GET', KEYS[k])
  if not size and (body == '' or redis.call('GET', KEYS[k + 4]) == 'done') then return end
  if task ~= '' and redis.call('SADD', KEYS[k + 3], task .. ':' .. place) == 0 then return end
  -- In a header of Celery's several members may have one place: those of a group in it.
  if body == '' and redis.call('SADD', KEYS[k + 3], place .. ':' .. key .. ':') == 0 then return end
  local added = redis.pcall('ZADD', KEYS[k + 1], place, data)
  local ordered = type(added) == 'number'
  if not ordered then redis.call('RPUSH', KEYS[k + 1], data) end
  local count = redis.call(ordered and 'ZCARD' or 'LLEN', KEYS[k + 1])
  if ttl ~= '' then
    for key = k, k + 3 do redis.call('PEXPIRE', KEYS[key], ttl) end
  elseif count == 1 then
    local life = redis.call('PTTL', KEYS[k])
    if life > 0 then
      redis.call('PEXPIRE', KEYS[k + 1], life)
      redis.call('PEXPIRE', KEYS[k + 3], life)
    end
  end
  if not size then return end
  if count < tonumber(size) + tonumber(redis.call('GET', KEYS[k + 2]) or 0) then return end
  body = redis.call('GET', KEYS[k + 5]) or body
  if body == '' or not redis.call('SET', KEYS[k + 4], 'done', 'NX', 'EX', DONE) then return end
  redis.call('RENAME', KEYS[k + 1], KEYS[k + 6])
  redis.call('DEL', KEYS[k], KEYS[k + 2], KEYS[k + 3], KEYS[k + 5])
  redis.call('HSET', KEYS[k + 7], id, body)
  joined[#joined + 1] = id
  joined[#joined + 1] = body
end

-- Make one step, if it is to be made at all; where the next one begins, or nil: it is none of these
local function change(at, real)
  local what, k = ARGV[at], tonumber(ARGV[at + 1])
  if what == 'cp' then
    if real then count_part(k, unpack(ARGV, at + 2, at + 8)) end
    return at + 9
  elseif what == 'co' then
    if real and redis.call('EXISTS', KEYS[k + 6]) == 0 and set(KEYS[k], ARGV[at + 2], ARGV[at + 3])
    then
      redis.call('DEL', KEYS[k + 1], KEYS[k + 2], KEYS[k + 3], KEYS[k + 4], KEYS[k + 5])
      set(KEYS[k + 5], ARGV[at + 4], ARGV[at + 3])
    end
    return at + 5
  elseif what == 'cg' then
    if real and redis.call('EXISTS', KEYS[k]) == 1 then
      redis.call('INCRBY', KEYS[k + 2], ARGV[at + 2])
      local life = redis.call('PTTL', KEYS[k])
      if life > 0 then redis.call('PEXPIRE', KEYS[k + 2], life) end
    end
    return at + 3
  elseif what == 'cd' then
    if real then
      redis.call('DEL', KEYS[k], KEYS[k + 2], KEYS[k + 5])
      redis.call('UNLINK', KEYS[k + 1], KEYS[k + 3], KEYS[k + 6])
    end
    return at + 2
  elseif what == 'kk' then
    local last = at + 3 + tonumber(ARGV[at + 3])
    if real and redis.call('EXISTS', KEYS[k]) == 0 then
      for step = at + 4, last do redis.call('RPUSH', KEYS[k], ARGV[step]) end
      if ARGV[at + 2] ~= '' then redis.call('PEXPIRE', KEYS[k], ARGV[at + 2]) end
    end
    return last + 1
  elseif what == 'kd' then
    if real then redis.call('UNLINK', KEYS[k]) end
    return at + 2
  end
end
