-- What one series holds, without moving it: read-only.
-- KEYS 1 candles, 2 companion.  ARGV 1 first open time, 2 last open time, 3 timeframe in ms
-- Returns {stored, traded (of all), oldest, newest, asked from, cursor, oldest traded, then first and last open time of each missing range}.
-- Times that do not exist are -1.
local key, companion = KEYS[1], KEYS[2]
local first, last, tf = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local rows = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
local known = redis.call('HMGET', companion, 'asked_from', 'cursor')
local traded, oldest, newest = 0, '-1', '-1'
local oldest_traded = '-1'
local result = {0, 0, '-1', '-1', known[1] or '-1', known[2] or '-1', '-1'}
local expected = first
local stored = 0
for i = 1, #rows, 2 do
  -- A member that is no candle of ours is as good as missing: it will be replaced.
  local head = '{"open_time":' .. rows[i + 1] .. ',"open":'
  if string.sub(rows[i], 1, #head) == head then
    stored = stored + 1
    local time = tonumber(rows[i + 1])
    if string.find(rows[i], '"kind":"traded"', 1, true) then
      traded = traded + 1
      if oldest_traded == '-1' then oldest_traded = string.format('%d', time) end
    end
    if oldest == '-1' then oldest = string.format('%d', time) end
    newest = string.format('%d', time)
    if time >= first and time <= last then
      if time > expected then
        result[#result + 1] = string.format('%d', expected)
        result[#result + 1] = string.format('%d', time - tf)
      end
      expected = time + tf
    end
  end
end
if expected <= last then
  result[#result + 1] = string.format('%d', expected)
  result[#result + 1] = string.format('%d', last)
end
result[1], result[2], result[3], result[4], result[7] = stored, traded, oldest, newest, oldest_traded
return result
