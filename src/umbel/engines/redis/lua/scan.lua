-- Look through a part of a list for envelopes that hold one of some texts.
--
-- KEYS[1] list   envelopes, newest first
-- ARGV    first and last place, texts (none: all are wanted)
--
-- Returns {how many were looked at, envelope, ...}.
local found = redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2])
local wanted = {#found}
for _, envelope in ipairs(found) do
  local hit = #ARGV == 2
  for text = 3, #ARGV do
    if string.find(envelope, ARGV[text], 1, true) then hit = true end
  end
  if hit then wanted[#wanted + 1] = envelope end
end
return wanted
