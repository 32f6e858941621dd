-- Somebody uses a private series: it stays. What is not there is not made.
-- KEYS 1 candles, 2 companion.  ARGV 1 milliseconds after which both go unless they are used
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return redis.call('PEXPIRE', KEYS[1], ARGV[1])
