-- close: what hangs on the job's message was sent; its copies are dropped from now on.
-- KEYS[1] the record   ARGV[1] job  [2] horizon, ms
-- Returns 1, or 0 if there is no record. Repeating it is harmless.
-- include: base
-- include: facts
local job = ARGV[1]
local state, j = unpack(redis.call("HMGET", key, "s", "j"))
if not state then return 0 end
if owner_of(j) == job then
  redis.call("HSET", key, "z", "1")
else
  local now_ms = math.floor(now() / 1000)
  local fact = read_fact(job) or no_fact()
  fact.closed, fact.at, fact.delivery = true, now_ms, ""
  write_fact(job, fact)
  redis.call("HDEL", key, "o:" .. job)
  prune(now_ms, tonumber(ARGV[2]))
end
keep_at_least(tonumber(ARGV[2]))
return 1
