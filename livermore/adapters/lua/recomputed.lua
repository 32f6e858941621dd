-- The readings behind corrections were told, unless another was made meanwhile.
-- KEYS 1 companion.  ARGV 1 epoch  2 version that was followed.  Returns 1 when it was noted, else 0.
local known = redis.call('HMGET', KEYS[1], 'epoch', 'version', 'corrected')
if tonumber(ARGV[1]) < (tonumber(known[1] or '') or 0) then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is older than ' .. known[1])
end
local followed = tonumber(ARGV[2])
-- A lower version is that of another store: this one was emptied.
if (tonumber(known[2] or '') or 0) < followed or (tonumber(known[3] or '') or 0) > followed then return 0 end
redis.call('HDEL', KEYS[1], 'changed_from')
return redis.call('HDEL', KEYS[1], 'corrected_from')
