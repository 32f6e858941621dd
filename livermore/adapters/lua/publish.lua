-- Publishes, and stores where ARGV 3 gives a time to live in seconds. KEYS 1 the key (or the one it belongs to).
-- A script because a cluster pipeline refuses PUBLISH.  ARGV 1 channel, 2 text, 3 seconds or ""
if ARGV[3] ~= '' then redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3]) end
return redis.call('PUBLISH', ARGV[1], ARGV[2])
