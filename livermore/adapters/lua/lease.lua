-- Takes, waits for, renews or gives back the lease of an exchange.
-- KEYS 1 lease (hash).  ARGV 1 take|wait|renew|release  2 holder  3 milliseconds  4 description (JSON)
--      5 epoch (take: the highest the caller knows; it may have lapsed with the key)
--      6 wait: milliseconds for which one that waits is remembered, in a field of its own
-- Returns {1, epoch} when we hold it, {0, epoch, holder, description, milliseconds left} when somebody else does.
local known = redis.call('HMGET', KEYS[1], 'holder', 'epoch', 'description')
local holder, epoch = known[1], tonumber(known[2] or '') or 0
local left = redis.call('PTTL', KEYS[1])
local waiting = 'standby ' .. ARGV[2]
local function other()
  return {0, string.format('%d', epoch), holder or '', known[3] or '', left}
end
local function milliseconds()
  local now = redis.call('TIME')
  return tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
end
-- Those that wait are remembered until the time that their text begins with.
local function forget_the_gone(now)
  local fields = redis.call('HGETALL', KEYS[1])
  for i = 1, #fields, 2 do
    if string.match(fields[i], '^standby ') and (tonumber(string.match(fields[i + 1], '^%d+') or '') or 0) <= now then
      redis.call('HDEL', KEYS[1], fields[i])
    end
  end
end
if ARGV[1] == 'take' or ARGV[1] == 'wait' then
  local now = milliseconds()
  if holder and holder ~= ARGV[2] then
    if ARGV[1] == 'wait' then
      redis.call('HSET', KEYS[1], waiting, string.format('%d ', now + tonumber(ARGV[6])) .. ARGV[4])
    end
    return other()
  end
  local fresh = now
  epoch = math.max(epoch, tonumber(ARGV[5]))
  if fresh <= epoch then fresh = epoch + 1 end
  redis.call('HSET', KEYS[1], 'holder', ARGV[2], 'epoch', string.format('%d', fresh), 'description', ARGV[4])
  redis.call('HDEL', KEYS[1], waiting)
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return {1, string.format('%d', fresh)}
end
if holder ~= ARGV[2] or epoch ~= tonumber(ARGV[5]) then
  if ARGV[1] == 'release' then redis.call('HDEL', KEYS[1], waiting) end
  return other()
end
if ARGV[1] == 'renew' then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  forget_the_gone(milliseconds())
else
  redis.call('DEL', KEYS[1])
end
return {1, ARGV[5]}
