-- Takes, renews or gives back the lease of an exchange.
-- KEYS 1 lease (hash).  ARGV 1 take|renew|release  2 holder  3 milliseconds  4 description (JSON)
--      5 epoch (take: the highest the caller knows; it may have lapsed with the key)
-- Returns {1, epoch} when we hold it, {0, epoch, holder, description, milliseconds left} when somebody else does.
local known = redis.call('HMGET', KEYS[1], 'holder', 'epoch', 'description')
local holder, epoch = known[1], tonumber(known[2] or '') or 0
local left = redis.call('PTTL', KEYS[1])
local function other()
  return {0, string.format('%d', epoch), holder or '', known[3] or '', left}
end
if ARGV[1] == 'take' then
  if holder and holder ~= ARGV[2] then return other() end
  local now = redis.call('TIME')
  local fresh = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
  epoch = math.max(epoch, tonumber(ARGV[5]))
  if fresh <= epoch then fresh = epoch + 1 end
  redis.call('HSET', KEYS[1], 'holder', ARGV[2], 'epoch', string.format('%d', fresh), 'description', ARGV[4])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return {1, string.format('%d', fresh)}
end
if holder ~= ARGV[2] or epoch ~= tonumber(ARGV[5]) then return other() end
if ARGV[1] == 'renew' then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
else
  redis.call('DEL', KEYS[1])
end
return {1, ARGV[5]}
