-- unbury: take the letter of a job off a shelf, unless another took its place.
-- KEYS[1] the shelf  [2] its index   ARGV[1] job  [2] when the letter was written, ms
-- Returns 1 if it was there, else 0. Repeating it is harmless.
if redis.call("ZSCORE", KEYS[2], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call("ZREM", KEYS[2], ARGV[1])
redis.call("HDEL", KEYS[1], ARGV[1])
return 1
