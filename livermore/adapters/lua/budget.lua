-- Grants one REST request of an exchange, evenly spaced by the clock of Redis.
-- KEYS 1 budget (hash).  ARGV 1 microseconds between requests  2 lane 0-3 (0 first)  3 weight
-- Returns {1, microseconds until the granted moment}, {0, microseconds until asking again makes sense},
--      or {-1, microseconds, why} while the exchange has told us to stay away.
-- Even spacing instead of a count per second: two full seconds side by side would put twice the
-- limit into one sliding second. A lane that waits is remembered, so that a lower one lets it pass.
local now = redis.call('TIME')
local time = tonumber(now[1]) * 1000000 + tonumber(now[2])
local known = redis.call('HMGET', KEYS[1], 'next', 'banned_until', 'lane0', 'lane1', 'lane2', 'banned_for', 'banned_why')
local banned = (tonumber(known[2] or '') or 0) - time
if banned > 0 then
  local length = tonumber(known[6] or '') or banned
  if banned > length then -- the clock went back
    banned = length
    redis.call('HSET', KEYS[1], 'banned_until', string.format('%d', time + banned))
  end
  return {-1, banned, known[7] or ''}
end
local lane, space = tonumber(ARGV[2]), tonumber(ARGV[1])
local function waits(for_time)
  -- Until one space after the moment it is to ask again. A grant does not end it: others of the lane may wait.
  if lane < 3 then redis.call('HSET', KEYS[1], 'lane' .. lane, string.format('%d', time + for_time + space)) end
  return {0, for_time}
end
for higher = 0, lane - 1 do
  local still = (tonumber(known[3 + higher] or '') or 0) - time
  if still > 0 and still < 120000000 then return waits(2 * space) end -- beyond that the clock went back
end
local due = tonumber(known[1] or '0')
if due > time + 60000000 then due = 0 end -- the clock went back
local wait = math.max(0, due - time)
if wait > 2 * space then return waits(wait - space) end
redis.call('HSET', KEYS[1], 'next', string.format('%d', time + wait + space * tonumber(ARGV[3])))
redis.call('HINCRBY', KEYS[1], 'granted', 1)
redis.call('EXPIRE', KEYS[1], 86400)
return {1, wait}
