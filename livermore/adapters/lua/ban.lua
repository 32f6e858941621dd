-- The exchange told us to stay away: everyone on this Redis does. KEYS 1 budget. ARGV 1 microseconds, 2 why
local now = redis.call('TIME')
local until_time = tonumber(now[1]) * 1000000 + tonumber(now[2]) + tonumber(ARGV[1])
local known = tonumber(redis.call('HGET', KEYS[1], 'banned_until') or '0')
if until_time > known then
  redis.call('HSET', KEYS[1], 'banned_until', string.format('%d', until_time), 'banned_why', ARGV[2])
end
redis.call('HINCRBY', KEYS[1], 'refusals', 1)
redis.call('EXPIRE', KEYS[1], 86400)
return 1
