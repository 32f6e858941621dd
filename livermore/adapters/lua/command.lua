-- KEYS[1] who runs a command. ARGV: instance ('' only asks for the time), ms it is remembered.
-- Replies with the time of Redis in ms, and with who was there before ('' for nobody).
local now = redis.call('TIME')
local ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
if ARGV[1] == '' then return {ms, ''} end
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return {ms, ''} end
return {ms, redis.call('GET', KEYS[1]) or ''}
