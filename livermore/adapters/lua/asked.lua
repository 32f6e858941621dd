-- Remembers from where on history was asked for, so that nobody asks again for what does not exist.
-- KEYS 1 companion. ARGV 1 epoch, 2 first open time asked for, or ""
--      3 the oldest stored candle, where there are candles and the companion was lost: what will be inserted behind it
--        was not announced
local known = redis.call('HMGET', KEYS[1], 'epoch', 'asked_from', 'cursor')
if tonumber(ARGV[1]) < (tonumber(known[1] or '') or 0) then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is older than ' .. known[1])
end
if ARGV[2] ~= '' and (not known[2] or tonumber(ARGV[2]) < tonumber(known[2])) then
  redis.call('HSET', KEYS[1], 'asked_from', ARGV[2])
end
if ARGV[3] and not known[3] then redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'cursor', ARGV[3]) end
if string.sub(KEYS[1], 1, 20) == 'series:{usercandles:' and redis.call('PTTL', KEYS[1]) == -1 then
  redis.call('PEXPIRE', KEYS[1], 86400000) -- until candles say it for both
end
return 1
