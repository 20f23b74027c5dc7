-- jot: append a line to a short list that ends by itself.
-- KEYS[1] the list   ARGV[1] line  [2] lines at most  [3] kept after its last line, ms
-- Returns 1. Repeating it doubles the line.
redis.call("RPUSH", KEYS[1], ARGV[1])
redis.call("LTRIM", KEYS[1], -ARGV[2], -1)
redis.call("PEXPIRE", KEYS[1], ARGV[3])
return 1
