-- A series that lived in other keys goes on in these: what is here already goes.
-- KEYS 1 candles, 2 companion.  ARGV 1 epoch  2 milliseconds after which both go unless they are used, "" never
--      3 how many fields the companion has, then field and value of each,
--      then open time and member of each candle
local known = redis.call('HGET', KEYS[2], 'epoch')
if tonumber(ARGV[1]) < (tonumber(known or '') or 0) then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is older than ' .. known)
end
redis.call('ZCARD', KEYS[1]) -- a key of somebody else is an error here, before anything goes
redis.call('DEL', KEYS[1], KEYS[2])
local candles = 4 + 2 * tonumber(ARGV[3])
for i = 4, candles - 1, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
redis.call('HSET', KEYS[2], 'epoch', ARGV[1])
for i = candles, #ARGV, 1000 do
  redis.call('ZADD', KEYS[1], unpack(ARGV, i, math.min(i + 999, #ARGV)))
end
if ARGV[2] ~= '' then
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[2]) end
end
return 1
