-- close: what hangs on the job's message was sent; its copies are dropped from now on.
-- KEYS[1] the record   ARGV[1] job  [2] horizon, ms  [3] line of the message, left out if any
-- Returns 1, or 0 if there is no record, or the job was reopened since. Repeating it is harmless.
-- include: base
-- include: facts
local REOPENED = 100000 -- so far ahead of its job's messages is one that an operator published
local job = ARGV[1]
local state, j, best = unpack(redis.call("HMGET", key, "s", "j", "b"))
if not state then return 0 end
local own = owner_of(j) == job
local fact = own and { line = tonumber(best or 0) } or read_fact(job) or no_fact()
if ARGV[3] and fact.line >= ARGV[3] + REOPENED then return 0 end
if own then
  redis.call("HSET", key, "z", "1")
else
  local now_ms = math.floor(now() / 1000)
  fact.closed, fact.at, fact.delivery = true, now_ms, ""
  write_fact(job, fact)
  redis.call("HDEL", key, "o:" .. job)
  prune(now_ms, tonumber(ARGV[2]))
end
keep_at_least(tonumber(ARGV[2]))
return 1
