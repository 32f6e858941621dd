-- Raises the epoch of a series, so that an older holder is refused. KEYS 1 companion. ARGV 1 epoch
local known = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '') or 0
if tonumber(ARGV[1]) < known then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is older than ' .. string.format('%d', known))
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1])
if string.sub(KEYS[1], 1, 20) == 'series:{usercandles:' and redis.call('PTTL', KEYS[1]) == -1 then
  redis.call('PEXPIRE', KEYS[1], 86400000) -- until candles say it for both
end
return 1
