-- advance: a newer message of the job was published; its older copies are dropped from now on.
-- KEYS[1] the record   ARGV[1] job  [2] line of the newer message  [3] horizon, ms
-- Returns 1. Repeating it is harmless.
-- include: base
-- include: facts
local job, line, horizon_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local state, j, best = unpack(redis.call("HMGET", key, "s", "j", "b"))
if not state then
  write_blank(job)
  if line > 0 then redis.call("HSET", key, "b", line) end
  redis.call("PEXPIRE", key, horizon_ms)
  return 1
end
if owner_of(j) == job then
  if line > tonumber(best or 0) then redis.call("HSET", key, "b", line) end
else
  local now_ms = math.floor(now() / 1000)
  local fact = read_fact(job) or no_fact()
  fact.line = math.max(fact.line, line)
  if fact.closed or fact.ended == "" then fact.at = now_ms end
  write_fact(job, fact)
  prune(now_ms, horizon_ms)
end
keep_at_least(horizon_ms)
return 1
