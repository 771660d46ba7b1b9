-- Claim up to `limit` ready messages for one worker incarnation, and make ready what is due.
--
-- KEYS[1] umbel:lease        hash    incarnation -> renewals, or "dead ..."
-- KEYS[2] umbel:paused       set     queues
-- KEYS[3] umbel:counter      hash    message, revocation
-- KEYS[4] umbel:notes        hash    SHA-1 of an envelope -> what is known of it
-- KEYS[5] umbel:claims:<w>   hash    number -> head + envelope
-- KEYS[6] umbel:claimed:<w>  string  token, first and last number of the last claim
-- then for each queue:
--         umbel:due:<q>      zset    member -> due
--         umbel:tags:<q>     zset    members
--         umbel:later:<q>    hash    member -> envelope
--         its lists          list    envelopes; the most urgent first
-- ARGV    worker, token, limit, now, upside down (1 or 0), most to make ready, number of levels,
--         the step of each level, the name of each queue, the highest number that the worker has
--         had: a replica that takes the server's place may lag behind it, and a number is a fence
--
-- Returns 0 if the incarnation may not claim; else {revocation version, next due or false,
-- chunks, again}. A chunk: {first number, queue's index, level's index, {envelope, ...},
-- {index, notes, ...}}. `again`: {number, head + envelope, ...} if this very claim was made before
-- and its answer was lost.
local lease = redis.call('HGET', KEYS[1], ARGV[1])
if not lease or string.byte(lease) == 100 then return 0 end
local token, limit, now = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local levels = tonumber(ARGV[7])
local stride = 3 + levels
local queues = (#KEYS - 6) / stride
local function name(queue) return ARGV[7 + levels + queue] end
local function list(queue, level) return KEYS[6 + (queue - 1) * stride + 3 + level] end

local version = tonumber(redis.call('HGET', KEYS[3], 'revocation') or 0)
local next_due = false
local room = tonumber(ARGV[6])
for queue = 1, queues do
  local base = 6 + (queue - 1) * stride
  local due = redis.call('ZRANGE', KEYS[base + 1], 0, 0, 'WITHSCORES')
  if due[2] and tonumber(due[2]) <= now and room > 0 then
    local ready = redis.call('ZRANGEBYSCORE', KEYS[base + 1], '-inf', ARGV[4], 'LIMIT', 0, room)
    room = room - #ready
    for _, member in ipairs(ready) do
      local step, level = string.match(member, '%z(%d+)$'), levels
      for l = 1, levels do
        if ARGV[7 + l] == step then level = l end
      end
      local envelope = redis.call('HGET', KEYS[base + 3], member)
      if envelope then redis.call('LPUSH', list(queue, level), envelope) end
    end
    redis.call('ZREM', KEYS[base + 1], unpack(ready))
    redis.call('ZREM', KEYS[base + 2], unpack(ready))
    redis.call('HDEL', KEYS[base + 3], unpack(ready))
    due = redis.call('ZRANGE', KEYS[base + 1], 0, 0, 'WITHSCORES')
  end
  if due[2] and (not next_due or tonumber(due[2]) < tonumber(next_due)) then next_due = due[2] end
end

local before = redis.call('GET', KEYS[6])
if before and string.sub(before, 1, #token + 1) == token .. ' ' then
  local again = {}
  for part in string.gmatch(string.sub(before, #token + 2), '%d+') do
    local held = redis.call('HGET', KEYS[5], part)
    if held then
      again[#again + 1] = part
      again[#again + 1] = held
    end
  end
  return {version, next_due, {}, again}
end

local paused = {}
if redis.call('EXISTS', KEYS[2]) == 1 then
  for _, queue in ipairs(redis.call('SMEMBERS', KEYS[2])) do paused[queue] = true end
end
local chunks, left, number, noted, numbers = {}, limit, nil, false, {token}
local failure
local function take(queue, level, most)
  local found = redis.pcall('RPOP', list(queue, level), most)
  if not found then return false end
  if found.err then  -- no list at all; or this server is a replica by now, which is not "empty"
    if not string.find(found.err, 'WRONGTYPE', 1, true) then failure = found end
    return false
  end
  if not number then
    number = redis.call('HINCRBY', KEYS[3], 'message', limit) - limit
    local had = tonumber(ARGV[#ARGV])
    if number < had then
      number = had
      redis.call('HSET', KEYS[3], 'message', string.format('%.0f', had + limit))
    end
    noted = redis.call('EXISTS', KEYS[4]) == 1
  end
  local first, notes, values = number + 1, {}, {}
  local plain = ARGV[7 + level] .. '\0' .. '0\0' .. '0\0' .. '\0' .. name(queue) .. '\0'
  for i = 1, #found do
    local head = plain
    if noted then
      local digest = redis.sha1hex(found[i])
      local note = redis.call('HGET', KEYS[4], digest)
      if note then
        redis.call('HDEL', KEYS[4], digest)
        head = ARGV[7 + level] .. '\0' .. note .. '\0' .. name(queue) .. '\0'
        notes[#notes + 1] = i
        notes[#notes + 1] = note
      end
    end
    number = number + 1
    values[2 * i - 1] = string.format('%.0f', number)
    values[2 * i] = head .. found[i]
    numbers[#numbers + 1] = values[2 * i - 1]
  end
  redis.call('HSET', KEYS[5], unpack(values))
  left = left - #found
  chunks[#chunks + 1] = {first, queue, level, found, notes}
  return true
end

if ARGV[5] == '1' and left > 0 then
  local served = false
  for level = levels, 1, -1 do
    for queue = 1, queues do
      if not served and not paused[name(queue)] then served = take(queue, level, 1) end
    end
  end
end
for level = 1, levels do
  for queue = 1, queues do
    if left > 0 and not paused[name(queue)] then take(queue, level, left) end
  end
end
if failure then return failure end
if number then redis.call('SET', KEYS[6], table.concat(numbers, ' ')) end
return {version, next_due, chunks, {}}
