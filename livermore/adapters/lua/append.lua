-- Included in candles.lua and closes.lua: one traded candle that is newer than all that is stored, of a series with a
-- companion. What is done for it here is to the byte what the rest of candles.lua would do, for half the work.
-- ARGV at + 1 .. at + 16 as candles.lua has them. Returns its reply, or nil where nothing was done.
local function append(key, companion, at)
  local time = ARGV[at + 12]
  if string.byte(ARGV[at + 13]) ~= 34 then return nil end
  local known = redis.pcall('HMGET', companion, 'epoch', 'cursor', 'version', 'edge_time', 'corrected')
  if known.err or known[1] ~= ARGV[at + 1] or not tonumber(known[2] or '') then return nil end
  if redis.pcall('ZCOUNT', key, time, '+inf') ~= 0 then return nil end
  local rank = ARGV[at + 15]
  local member = '"open_time":' .. time .. ',' .. ARGV[at + 13] .. ',"volume":' .. ARGV[at + 14] .. ',"kind":"traded","evidence":"'
    .. (rank == '1' and 'stream' or rank == '2' and 'rest' or 'assumed') .. '","as_of":' .. ARGV[at + 16] .. ',"revision":0}'
  if redis.pcall('ZADD', key, 'NX', time, '{' .. member) ~= 1 then return nil end
  if tonumber(time) > tonumber(known[2]) then redis.call('PUBLISH', ARGV[at + 4], '{' .. ARGV[at + 6] .. member) end
  local card, keep = redis.call('ZCARD', key), tonumber(ARGV[at + 2])
  local edge_time, edge, oldest = tonumber(known[4] or ''), tonumber(ARGV[at + 8]), ''
  if edge and edge_time and edge < edge_time then edge = nil end
  edge_time = edge or edge_time
  if card >= keep then
    local first = redis.call('ZRANGE', key, 0, 1, 'WITHSCORES')
    oldest = first[1]
    local gone = edge_time and card - keep or 0
    if gone > 1 then gone = math.min(gone, redis.call('ZCOUNT', key, '-inf', string.format('%d', edge_time))) end
    if gone > 0 and tonumber(first[2]) <= edge_time then
      redis.call('ZREMRANGEBYRANK', key, 0, gone - 1)
      card, oldest = card - gone, gone == 1 and first[3] or redis.call('ZRANGE', key, 0, 0)[1]
    end
  end
  local version = (tonumber(known[3] or '') or 0) + 1
  local text = string.format('%d', version)
  if edge then
    redis.call('HSET', companion, 'edge_time', ARGV[at + 8], 'edge', ARGV[at + 9], 'base', ARGV[at + 10], 'version', text)
  else
    redis.call('HSET', companion, 'version', text)
  end
  -- Both at the same moment: what the companion says is true of candles that are there.
  if ARGV[at + 11] ~= '' then
    redis.call('PEXPIRE', companion, ARGV[at + 11])
    redis.call('PEXPIRE', key, ARGV[at + 11])
  end
  return {card, version, 'a', oldest, tonumber(known[5] or '') or 0}
end
