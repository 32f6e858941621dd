-- Keeps what the rules remember, adds entries to the outbox and announces them, in one step.
-- KEYS 1 outbox (stream)  2 memories of the rules (hash)  3 claims (hash)  4 marks of the delivery (hash)
--      5 how far the database is (hash); one slot: the last four carry the name of the first as their hash tag
-- ARGV 1 epoch  2 entries to keep  3 channel of all entries
--      4 how many memories, then field and text of each,
--      then for each entry: claim, JSON text, names of its channels with commas ("" all), channel of its symbol
-- Returns the stream id of each entry: of the one that has the claim already, where there is one.
local stream, rules, claims, marks, history = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local known = redis.call('HGET', rules, 'epoch') or '0'
if tonumber(ARGV[1]) < (tonumber(known) or 0) then
  return redis.error_reply('FENCED epoch ' .. ARGV[1] .. ' is older than ' .. known)
end
-- A key of somebody else's is an error here, before anything is written.
local length = redis.call('XLEN', stream)
redis.call('HLEN', marks)
redis.call('HLEN', history)

local memories = tonumber(ARGV[4])
local ids = {}
for i = 5 + 2 * memories, #ARGV, 4 do
  local claim, text = ARGV[i], ARGV[i + 1]
  local id = redis.call('HGET', claims, claim)
  if not id then
    id = redis.call('XADD', stream, '*', 'claim', claim, 'entry', text, 'channels', ARGV[i + 2])
    redis.call('HSET', claims, claim, id)
    length = length + 1
    local said = '{"stream_id":"' .. id .. '",' .. string.sub(text, 2)
    redis.call('PUBLISH', ARGV[3], said)
    redis.call('PUBLISH', ARGV[i + 3], said)
  end
  ids[#ids + 1] = id
end
for i = 5, 4 + 2 * memories, 1000 do
  redis.call('HSET', rules, unpack(ARGV, i, math.min(i + 999, 4 + 2 * memories)))
end
if tonumber(ARGV[1]) > (tonumber(known) or 0) then redis.call('HSET', rules, 'epoch', ARGV[1]) end

local function later(a, b)
  local a_time, a_number = string.match(a, '^(%d+)%-(%d+)$')
  local b_time, b_number = string.match(b, '^(%d+)%-(%d+)$')
  if not b_time then return true end
  a_time, b_time = tonumber(a_time), tonumber(b_time)
  if a_time ~= b_time then return a_time > b_time end
  return tonumber(a_number) > tonumber(b_number)
end
local extra = length - tonumber(ARGV[2])
if extra > 0 then
  -- Everything about an entry goes with it; where it was not sent yet it is counted as dropped,
  -- where a database keeps the history and does not have it yet, as lost.
  local written = redis.call('HGET', history, 'cursor')
  local served = {}
  for name in string.gmatch(redis.call('HGET', marks, 'channels') or '', '[^,]+') do
    served[name] = redis.call('HGET', marks, 'cursor|' .. name) or ''
  end
  for _, row in ipairs(redis.call('XRANGE', stream, '-', '+', 'COUNT', extra)) do
    local id, of = row[1], {}
    for i = 1, #row[2], 2 do of[row[2][i]] = row[2][i + 1] end
    local named = ',' .. (of.channels or '') .. ','
    for name, cursor in pairs(served) do
      local mark = redis.call('HGET', marks, name .. '|' .. id)
      local open = mark == 'sending' or (not mark and later(id, cursor))
      if open and (named == ',,' or string.find(named, ',' .. name .. ',', 1, true)) then
        redis.call('HINCRBY', marks, 'dropped|' .. name, 1)
      end
      if mark then redis.call('HDEL', marks, name .. '|' .. id) end
    end
    if written and later(id, written) then redis.call('HINCRBY', history, 'lost', 1) end
    if of.claim and redis.call('HGET', claims, of.claim) == id then redis.call('HDEL', claims, of.claim) end
    redis.call('XDEL', stream, id)
  end
end
return ids
