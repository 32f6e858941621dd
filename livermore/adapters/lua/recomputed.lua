-- The readings behind a correction were told, unless the series changed again meanwhile.
-- KEYS 1 companion.  ARGV 1 epoch  2 version that was followed.  Returns 1 when it was noted, else 0.
local known = redis.call('HMGET', KEYS[1], 'epoch', 'version')
if tonumber(ARGV[1]) < (tonumber(known[1] or '') or 0) then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is older than ' .. known[1])
end
if tonumber(known[2] or '') ~= tonumber(ARGV[2]) then return 0 end
return redis.call('HDEL', KEYS[1], 'corrected_from')
