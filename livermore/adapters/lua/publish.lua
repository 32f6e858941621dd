-- Publishes, stores for a while, or forgets what the holder of an exchange says beside its candles;
-- one that has been succeeded is not heard.
-- KEYS 1 the key, or the one it belongs to: text with "epoch":N in it, or a hash with that field.
-- ARGV 1 channel or "" (a cluster pipeline refuses PUBLISH, hence a script)  2 text
--      3 seconds to store it for, "" not at all, "0" to forget what is there  4 epoch, left out where anybody may speak
-- Returns 1, or -1 where the key tells of a later holder: then nothing was done.
if (ARGV[4] or '') ~= '' then
  local type, known = redis.call('TYPE', KEYS[1])['ok'], nil
  if type == 'string' then
    known = string.match(redis.call('GET', KEYS[1]), '"epoch":(%d+)')
  elseif type == 'hash' then
    known = redis.call('HGET', KEYS[1], 'epoch')
  end
  if tonumber(ARGV[4]) < (tonumber(known or '') or 0) then return -1 end
end
if ARGV[3] == '0' then
  redis.call('DEL', KEYS[1])
elseif ARGV[3] ~= '' then
  redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
end
if ARGV[1] ~= '' then redis.call('PUBLISH', ARGV[1], ARGV[2]) end
return 1
