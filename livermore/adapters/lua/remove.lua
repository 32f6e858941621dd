-- A series that is not followed any more is forgotten. KEYS 1 candles, 2 companion. ARGV 1 epoch
local known = redis.call('HGET', KEYS[2], 'epoch')
if tonumber(ARGV[1]) < (tonumber(known or '') or 0) then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is older than ' .. known)
end
redis.call('ZCARD', KEYS[1]) -- a key of somebody else is an error here, before anything goes
return redis.call('DEL', KEYS[1], KEYS[2])
