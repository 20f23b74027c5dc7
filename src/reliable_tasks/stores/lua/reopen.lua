-- reopen: an operator lets a job run again; see core/decisions.py for the rules.
-- KEYS[1] the record   ARGV[1] job  [2] line of its next message  [3] horizon, ms
-- Returns 1 if that message is to be published, 0 if the job is busy or a newer message exists.
-- Asking again with the same line is answered the same and changes nothing.
-- include: base
-- include: facts
local job, line, horizon_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now_ms = math.floor(now() / 1000)
local state, j, till, best = unpack(redis.call("HMGET", key, "s", "j", "u", "b"))
if not state then
  write_blank(job)
  if line > 0 then redis.call("HSET", key, "b", line) end
  redis.call("PEXPIRE", key, horizon_ms)
  return 1
end
if not string.find("RTIDFQ", state, 1, true) or #state ~= 1 then return 0 end

local own = owner_of(j) == job
local fact = own and { line = tonumber(best or 0) } or read_fact(job) or no_fact()
if fact.line >= line then return fact.line == line and 1 or 0 end
if own and (state == "R" or state == "T") and now_ms < tonumber(till) then return 0 end
if own then
  redis.call("HSET", key, "b", line, "d", "")
  redis.call("HDEL", key, "z", "n", "m")
  if state ~= "D" then
    redis.call("HSET", key, "s", "I", "u", now_ms)
    redis.call("HDEL", key, "x", "g", "o")
  end
else
  fact.line, fact.closed, fact.replays, fact.at, fact.delivery = line, false, 0, now_ms, ""
  if fact.ended ~= "D" then
    fact.ended, fact.token = "", "0"
    redis.call("HDEL", key, "o:" .. job)
  end
  write_fact(job, fact)
  if state == "Q" then
    redis.call("HSET", key, "s", "I")
    redis.call("HDEL", key, "x")
  end
  prune(now_ms, horizon_ms)
end
if redis.call("PTTL", key) < horizon_ms then redis.call("PEXPIRE", key, horizon_ms) end
return 1
