-- Shared by the scripts that store results; it comes before them.
--
-- key     celery-task-meta-<id>  string  a result's meta
-- status  umbel:status:<id>      string  its status, where the meta is not JSON; else nil
--
-- A SUCCESS stays; with `progress` any end does. Of the meta only its first bytes are looked at,
-- which are the same whoever writes it.
local ENDS = {SUCCESS = true, FAILURE = true, REVOKED = true}
local function put(key, ttl, value)
  if ttl == '0' then return redis.call('DEL', key) end
  if ttl == '' then return redis.call('SET', key, value) end
  return redis.call('SET', key, value, 'PX', ttl)
end
local function store(key, ttl, meta, status_key, status, progress)
  local fresh = false
  if ttl == '0' then  -- it has expired already
  elseif ttl == '' then
    fresh = redis.call('SET', key, meta, 'NX')
  else
    fresh = redis.call('SET', key, meta, 'NX', 'PX', ttl)
  end
  if not fresh then
    local old = status_key and redis.call('GET', status_key)
    if not old then
      old = string.match(redis.call('GETRANGE', key, 0, 300), '^{"status": ?"([^"]*)"')
    end
    if old == 'SUCCESS' or (progress and ENDS[old]) then return end
    put(key, ttl, meta)
  end
  if status_key then put(status_key, ttl, status) end
  redis.call('PUBLISH', key, meta)
end
