-- Stores a reading unless what is there is newer, and announces it when it differs.
-- KEYS 1 indicator  2 what was told of older candles, where ARGV 3 is "1".  ARGV 1 reading as JSON text starting with open_time, revision, epoch  2 channel
--      3 "1" for one of an older candle, that a correction changed: announced, not stored
--      4 milliseconds after which it goes unless it is used, "" never
--      5 milliseconds for which what was told of an older candle is remembered
-- What follows "state" lets the daemon go on after a restart; it is stored, not announced.
-- Returns 1 stored and announced, 0 the same was there, -1 something newer was there.
-- The same is what differs in nothing that is announced but the epoch, and the bias, which is of the
-- moment: a restart announces nothing again.
local function keep(text)
  if ARGV[4] == '' then redis.call('SET', KEYS[1], text) else redis.call('SET', KEYS[1], text, 'PX', ARGV[4]) end
end
local function announced(text)
  local cut = string.find(text, ',"state":', 1, true)
  return cut and string.sub(text, 1, cut - 1) .. '}' or text
end
local function without_epoch(text)
  text = string.gsub(announced(text), '"epoch":%d+,', '', 1)
  return (string.gsub(text, ',"bias":[^,]+,"bias_timeframes":%d+', '', 1))
end
-- Nearly every reading is of a later candle than the stored one. Then it differs, and is not compared: what is done for
-- it here is what would be done below.
if ARGV[3] == '' then
  local HEAD = '^{"open_time":(%d+),"revision":%d+,"epoch":(%d+),'
  local time, epoch = string.match(redis.call('GETRANGE', KEYS[1], 0, 99), HEAD)
  local new_time, new_epoch = string.match(ARGV[1], HEAD)
  if time and new_time and tonumber(new_time) > tonumber(time) and tonumber(new_epoch) >= tonumber(epoch) then
    keep(ARGV[1])
    redis.call('PUBLISH', ARGV[2], announced(ARGV[1]))
    return 1
  end
end
-- Everything else.
local stored = redis.call('GET', KEYS[1])
if stored == ARGV[1] and ARGV[3] ~= '1' then
  if ARGV[4] ~= '' then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
  return 0
end
if stored then
  local pattern = '^{"open_time":(%d+),"revision":(%d+),"epoch":(%d+),'
  local time, revision, epoch = string.match(stored, pattern)
  if time then
    local new_time, new_revision, new_epoch = string.match(ARGV[1], pattern)
    if tonumber(epoch) > tonumber(new_epoch) then
      return redis.error_reply('FENCED epoch ' .. new_epoch .. ' is older than ' .. epoch)
    end
    if ARGV[3] ~= '1' and tonumber(time) > tonumber(new_time) then return -1 end
  end
end
-- Who died between telling of older candles and noting that it was told tells all of it again: what was the last
-- word on a candle is not said twice.
if ARGV[3] == '1' then
  local time = string.match(ARGV[1], '^{"open_time":(%d+),')
  local digest = string.sub(redis.sha1hex(without_epoch(ARGV[1])), 1, 16)
  if redis.call('HGET', KEYS[2], time) == digest then return 0 end
  redis.call('HSET', KEYS[2], time, digest)
  redis.call('PEXPIRE', KEYS[2], ARGV[5])
  redis.call('PUBLISH', ARGV[2], ARGV[1])
  return 1
end
keep(ARGV[1])
if stored and without_epoch(stored) == without_epoch(ARGV[1]) then return 0 end
redis.call('PUBLISH', ARGV[2], announced(ARGV[1]))
return 1
