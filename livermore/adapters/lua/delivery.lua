-- How far each channel is with the outbox of an exchange.
-- KEYS 1 outbox (stream)  2 memories of the rules (hash; the epoch is there)  3 marks of the delivery (hash)
-- ARGV 1 begin|mark  2 epoch
--   begin: 3 where a channel that was never there starts ("" at the end of the outbox), then the channels
--     Returns for each {cursor, dropped, told of them, {stream id, mark, ...}}: the marks behind the cursor.
--   mark: 3 channel  4 cursor  5 dropped ones that were told of, "" as it is  then stream id and mark of each
--     Returns how many were dropped for the channel, ever. A mark that is final stays: a call may be repeated.
local stream, rules, marks = KEYS[1], KEYS[2], KEYS[3]
local known = redis.call('HGET', rules, 'epoch') or '0'
if tonumber(ARGV[2]) < (tonumber(known) or 0) then
  return redis.error_reply('FENCED epoch ' .. ARGV[2] .. ' is older than ' .. known)
end

if ARGV[1] == 'begin' then
  local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  local start = ARGV[3] ~= '' and ARGV[3] or (newest and newest[1] or '0-0')
  local fields = redis.call('HGETALL', marks)
  if tonumber(ARGV[2]) > (tonumber(known) or 0) then redis.call('HSET', rules, 'epoch', ARGV[2]) end
  local function later(a_time, a_number, cursor)
    local b_time, b_number = string.match(cursor, '^(%d+)%-(%d+)$')
    if not b_time then return true end
    a_time, b_time = tonumber(a_time), tonumber(b_time)
    if a_time ~= b_time then return a_time > b_time end
    return tonumber(a_number) > tonumber(b_number)
  end
  local found, names = {}, {}
  for i = 4, #ARGV do
    local name = ARGV[i]
    local cursor = redis.call('HGET', marks, 'cursor|' .. name)
    local time, number = string.match(cursor or '', '^(%d+)%-(%d+)$')
    if not time then
      cursor = start
    elseif later(time, number, newest and newest[1] or '0-0') then
      cursor = '0-0'  -- the outbox was lost: what is in it now is new
    end
    redis.call('HSET', marks, 'cursor|' .. name, cursor)
    found[name] = {cursor, redis.call('HGET', marks, 'dropped|' .. name) or '0', redis.call('HGET', marks, 'told|' .. name) or '0', {}}
    names[#names + 1] = name
  end
  for i = 1, #fields, 2 do
    local name, time, number = string.match(fields[i], '^([^|]*)|(%d+)%-(%d+)$')
    local of = found[name]
    if of then
      if later(time, number, of[1]) then
        of[4][#of[4] + 1] = time .. '-' .. number
        of[4][#of[4] + 1] = fields[i + 1]
      end
    elseif fields[i] ~= 'channels' and not (not name and found[string.match(fields[i], '|(.*)$') or '']) then
      redis.call('HDEL', marks, fields[i])  -- of a channel that is not there any more
    end
  end
  redis.call('HSET', marks, 'channels', table.concat(names, ','))
  local reply = {}
  for i, name in ipairs(names) do reply[i] = found[name] end
  return reply
end

local channel, dropped = ARGV[3], 0
for i = 6, #ARGV, 2 do
  local id, mark = ARGV[i], ARGV[i + 1]
  local was = redis.call('HGET', marks, channel .. '|' .. id)
  if (not was or was == 'sending') and was ~= mark and #redis.call('XRANGE', stream, id, id) > 0 then
    redis.call('HSET', marks, channel .. '|' .. id, mark)
    if string.sub(mark, 1, 7) == 'dropped' then dropped = dropped + 1 end
  end
end
redis.call('HSET', marks, 'cursor|' .. channel, ARGV[4])
if ARGV[5] ~= '' then redis.call('HSET', marks, 'told|' .. channel, ARGV[5]) end
return redis.call('HINCRBY', marks, 'dropped|' .. channel, dropped)
