-- Stores closed candles of one series and announces what changed, in one step.
--
-- KEYS 1 candles (sorted set), 2 companion (hash; same slot by hash tag)
-- ARGV 1 epoch  2 candles to keep  3 timeframe in ms  4 close channel  5 correct channel
--      6 identity: the first fields of an announcement, as JSON text without braces, ending in a comma
--      7 "" or, when the candles are history (silent up to the announce cursor), the newest open time
--        that a history fetched now ends with: of an empty series a page that is older may come first
--      8 edge time  9 edge state  10 base state: where the indicator can be replayed from ("" = as it is)
--      11 milliseconds after which both keys go unless they are used, "" never
--      then for each candle, ascending: open time, prices as JSON text, volume, rank 0-2, as_of.
--      Prices of an empty candle are "" or the previous close where the sender knows it.
-- Returns {stored candles, version, codes, oldest member or "", version of the last change that was not an append}.
--      One code per candle: a appended, i inserted before the newest, c corrected, v volume corrected,
--      s same, w weaker and different (not written), o empty of unknown price (not written), t trimmed away.
-- Numbers are spliced as text, never re-encoded: cjson keeps 14 digits.
local key, companion, keep = KEYS[1], KEYS[2], tonumber(ARGV[2])
-- Nearly every call brings the next candle alone.
-- include append
if #ARGV == 16 then
  local reply = append(key, companion, 0)
  if reply then return reply end
end
-- Everything else.
local known = redis.call('HMGET', companion, 'epoch', 'cursor', 'version', 'edge_time', 'corrected', 'corrected_from', 'changed_from')
local tf = tonumber(ARGV[3])
local label = {[0] = 'assumed', [1] = 'stream', [2] = 'rest'}
local rank_of = {assumed = 0, stream = 1, rest = 2}
local epoch = tonumber(known[1] or '') or 0
if tonumber(ARGV[1]) < epoch then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is older than ' .. known[1])
end
local cursor = tonumber(known[2] or '')
local version = tonumber(known[3] or '') or 0
local edge_time = tonumber(known[4] or '')
local corrected_version = tonumber(known[5] or '') or 0
local corrected_from, changed_from = tonumber(known[6] or ''), tonumber(known[7] or '')
local fields = {}
local function note(name, value)
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end
if tonumber(ARGV[1]) > epoch then note('epoch', ARGV[1]) end
-- The same edge may come again with another state: the candle at it was corrected.
local new_edge = tonumber(ARGV[8])
if new_edge and edge_time and new_edge < edge_time then new_edge = nil end

local NUMBER = '[%d.e+-]+'
local PATTERN = '^{"open_time":(%d+),("open":' .. NUMBER .. ',"high":' .. NUMBER .. ',"low":' .. NUMBER .. ',"close":' .. NUMBER
  .. '),"volume":(' .. NUMBER .. '),"kind":"(%a+)","evidence":"(%a+)","as_of":(%d+),"revision":(%d+)}$'
-- A member that is no candle of ours at that time is as good as none.
local function parse(member, time)
  if not member then return nil end
  local t, prices, volume, kind, evidence, as_of, revision = string.match(member, PATTERN)
  if not t or tonumber(t) ~= time or not rank_of[evidence] or (kind ~= 'traded' and kind ~= 'empty') then return nil end
  return {time = time, prices = prices, volume = volume, kind = kind, rank = rank_of[evidence],
          as_of = as_of, revision = tonumber(revision), member = member}
end
local function at(time)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', key, time, time)) do
    local found = parse(member, tonumber(time))
    if found then return found end
  end
  return nil
end
local function flat(prices)
  local close = string.match(prices, '"close":([^,]+)$') or prices
  return '"open":' .. close .. ',"high":' .. close .. ',"low":' .. close .. ',"close":' .. close
end
local function text(time, prices, volume, kind, rank, as_of, revision)
  return '{"open_time":' .. time .. ',' .. prices .. ',"volume":' .. volume .. ',"kind":"' .. kind
    .. '","evidence":"' .. label[rank] .. '","as_of":' .. as_of .. ',"revision":' .. revision .. '}'
end
local function announce(channel, member)
  redis.call('PUBLISH', channel, '{' .. ARGV[6] .. string.sub(member, 2))
end
-- Adds first: a full server refuses that, and what was there stays. Returns how many members went.
local function replace(time, member)
  redis.call('ZADD', key, time, member)
  local gone = 0
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', key, time, time)) do
    if other ~= member then gone = gone + redis.call('ZREM', key, other) end
  end
  return gone
end
local function same_volume(a, b)
  if a == b then return true end
  local x, y = tonumber(a), tonumber(b)
  if not x or not y then return false end
  return math.abs(x - y) <= 1e-9 * math.max(math.abs(x), math.abs(y))
end
local newest
-- A changed close changes the empties behind it: they are flat at it.
local function flatten_after(time, prices)
  local wanted = flat(prices)
  while true do
    time = time + tf
    local behind = at(string.format('%d', time))
    if not behind or behind.kind ~= 'empty' or behind.prices == wanted then return end
    local member = text(string.format('%d', time), wanted, behind.volume, 'empty', behind.rank, behind.as_of, behind.revision + 1)
    replace(string.format('%d', time), member)
    announce(ARGV[5], member)
    if newest and newest.time == time then newest = {time = time, prices = wanted, kind = 'empty'} end
  end
end

local card = redis.call('ZCARD', key)
local newest_member = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
local newest_time = tonumber(newest_member[2] or '-1')
newest = parse(newest_member[1], newest_time)
if not cursor and #ARGV > 11 then
  local oldest = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
  if oldest then
    -- The companion was lost. What was announced is stored; what will be inserted was not.
    cursor = tonumber(oldest)
  elseif ARGV[7] ~= '' then
    cursor = math.max(tonumber(ARGV[#ARGV - 4]), tonumber(ARGV[7]))
  else
    cursor = tonumber(ARGV[12]) - tf
  end
  note('cursor', string.format('%d', cursor))
end

local codes, changed, corrected, hold = {}, false, false, false
local function correct(time, existed)
  corrected = true
  if existed and (not changed_from or time < changed_from) then changed_from = time end
  -- Readings from here on are others now, until whoever computes them says they were told.
  if not corrected_from or time < corrected_from then corrected_from = time end
  -- What the replay edge absorbed is no longer so: nothing may go before a new edge is known, and
  -- an edge that was computed before this correction is not that one.
  if edge_time and time <= edge_time then hold = true end
  if new_edge and time <= new_edge then new_edge = nil end
end
for i = 12, #ARGV, 5 do
  local stamp, prices, volume, rank, as_of = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3]), ARGV[i + 4]
  local time = tonumber(stamp)
  local traded = string.sub(prices, 1, 1) == '"'
  local kind = traded and 'traded' or 'empty'
  local appended = time > newest_time
  local existing = nil
  if not appended then existing = at(stamp) end
  local stronger = not existing or rank > existing.rank or (rank == existing.rank and tonumber(as_of) >= tonumber(existing.as_of))
  if not traded then
    local before = nil
    if newest and newest.time == time - tf then before = newest else before = at(string.format('%d', time - tf)) end
    if before then
      prices = flat(before.prices)
    elseif existing and existing.kind == 'empty' and (prices == '' or not stronger) then
      prices = existing.prices
    elseif prices ~= '' then
      prices = flat(prices)
    end
  end
  local code
  if prices == '' then
    code = 'o'
  elseif not existing then
    local first = card >= keep and not appended and tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]) or -1
    if time < first then
      code = 't'
    else
      local member = text(stamp, prices, volume, kind, rank, as_of, 0)
      if appended then
        redis.call('ZADD', key, stamp, member)
      else
        card = card - replace(stamp, member)
      end
      card = card + 1
      if time > cursor then announce(ARGV[4], member) end
      changed = true
      if appended then
        code = 'a'
        newest_time = time
        newest = {time = time, prices = prices, kind = kind}
      else
        code = 'i'
        correct(time, false)
        flatten_after(time, prices)
      end
    end
  else
    local same = existing.kind == kind and existing.prices == prices
    local same_size = same_volume(existing.volume, volume)
    if not stronger then
      code = (same and same_size) and 's' or 'w'
    elseif same and same_size then
      code = 's'
      local member = text(stamp, prices, volume, kind, rank, as_of, existing.revision)
      if member ~= existing.member then replace(stamp, member) end
    else
      code = same and 'v' or 'c'
      local member = text(stamp, prices, volume, kind, rank, as_of, existing.revision + 1)
      replace(stamp, member)
      announce(ARGV[5], member)
      changed = true
      if newest and newest.time == time then newest = {time = time, prices = prices, kind = kind} end
      if not same then
        correct(time, true)
        flatten_after(time, prices)
      end
    end
  end
  codes[#codes + 1] = code
end

if new_edge then
  edge_time = new_edge
  hold = false
  note('edge_time', ARGV[8])
  note('edge', ARGV[9])
  note('base', ARGV[10])
end

local oldest = ''
if card >= keep then
  if card > keep and edge_time and not hold then
    -- only what the replay edge has absorbed may go
    local gone = redis.call('ZCOUNT', key, '-inf', string.format('%d', edge_time))
    if gone > card - keep then gone = card - keep end
    if gone > 0 then
      redis.call('ZREMRANGEBYRANK', key, 0, gone - 1)
      card = card - gone
    end
  end
  oldest = redis.call('ZRANGE', key, 0, 0)[1]
end
if changed then
  version = version + 1
  note('version', string.format('%d', version))
  if corrected then
    corrected_version = version
    note('corrected', string.format('%d', version))
    note('corrected_from', string.format('%d', corrected_from))
    if changed_from then note('changed_from', string.format('%d', changed_from)) end
  end
end
if #fields > 0 then redis.call('HSET', companion, unpack(fields)) end
-- Both at the same moment: what the companion says is true of candles that are there.
if ARGV[11] ~= '' then
  redis.call('PEXPIRE', companion, ARGV[11])
  redis.call('PEXPIRE', key, ARGV[11])
end
return {card, version, table.concat(codes), oldest, corrected_version}
