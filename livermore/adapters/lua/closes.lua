-- Stores one candle of each of several series: many close at one instant, and half of what a call costs is the call.
-- KEYS and ARGV: those of candles.lua, for one series after the other, each with one traded candle. Not for a cluster.
-- Returns for each series the reply of candles.lua, or 0 where nothing was done because it is not simply the next one:
-- candles.lua is to be asked then, which also says what is wrong.
-- include append
local replies = {}
for place = 1, #KEYS / 2 do
  replies[place] = append(KEYS[2 * place - 1], KEYS[2 * place], 16 * (place - 1)) or 0
end
return replies
