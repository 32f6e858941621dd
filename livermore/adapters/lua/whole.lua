-- Everything a replay starts from, of one moment: read-only.
-- KEYS 1 candles, 2 companion.  Returns {version, corrected, edge_time, edge, base, cursor,
-- corrected_from, changed_from, members ascending}.
local known = redis.call('HMGET', KEYS[2], 'version', 'corrected', 'edge_time', 'edge', 'base', 'cursor', 'corrected_from', 'changed_from')
return {known[1], known[2], known[3], known[4], known[5], known[6], known[7], known[8], redis.call('ZRANGE', KEYS[1], 0, -1)}
