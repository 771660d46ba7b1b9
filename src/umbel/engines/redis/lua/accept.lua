-- Note that claims were acknowledged before they ran.
--
-- KEYS[1] umbel:claims:<w>  hash  number -> head + envelope
-- KEYS[2] umbel:early:<w>   set   numbers
-- ARGV    numbers
--
-- Returns those that are not held any more.
local refused = {}
for _, number in ipairs(ARGV) do
  if redis.call('HEXISTS', KEYS[1], number) == 1 then
    redis.call('SADD', KEYS[2], number)
  else
    refused[#refused + 1] = number
  end
end
return refused
