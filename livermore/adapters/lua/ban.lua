-- The exchange told us to stay away: everyone on this Redis does.
-- KEYS 1 budget (hash).  ARGV 1 microseconds  2 why  3 refusals that is (0: somebody remembers an older one)
local now = redis.call('TIME')
local length = tonumber(ARGV[1])
local until_time = tonumber(now[1]) * 1000000 + tonumber(now[2]) + length
local known = redis.call('HMGET', KEYS[1], 'banned_until', 'banned_for')
-- One that lasts longer than it was said to is from before the clock went back.
local end_of_known = math.min(tonumber(known[1] or '') or 0, until_time - length + (tonumber(known[2] or '') or 0))
if until_time > end_of_known then
  redis.call('HSET', KEYS[1], 'banned_until', string.format('%d', until_time), 'banned_for', ARGV[1], 'banned_why', ARGV[2])
end
if ARGV[3] ~= '0' then redis.call('HINCRBY', KEYS[1], 'refusals', ARGV[3]) end
redis.call('EXPIRE', KEYS[1], math.max(86400, math.ceil(length / 1000000) + 60))
return 1
