-- end: the job is over by the word of the main process or of its caller; no copy of it runs again.
-- KEYS[1] the record   ARGV[1] job  [2] killed: 1, or 0 if a message was only discarded
--                      ARGV[3] horizon, ms
-- Returns 1. A job with an outcome keeps it; a live lease is left alone unless it was killed.
-- include: base
-- include: facts
-- include: reservations
local job, horizon_ms = ARGV[1], tonumber(ARGV[3])
local now_us = now()
local now_ms = math.floor(now_us / 1000)
local state, j, token, till, w, h = unpack(redis.call("HMGET", key, "s", "j", "t", "u", "w", "h"))
local waiting, window = read_waiting(w), read_window(h)
local function free()
  if waiting and waiting.job == job then
    redis.call("HDEL", key, "w")
    waiting = nil
  end
  if window and window.job == job then
    redis.call("HDEL", key, "h")
    window = nil
  end
end
if state and owner_of(j) ~= job then
  local fact = read_fact(job) or no_fact()
  if fact.ended == "" then
    free()
    fact.ended, fact.closed, fact.at = "F", true, now_ms
    write_fact(job, fact)
    prune(now_ms, horizon_ms)
    keep_at_least(horizon_ms)
  end
  return 1
end
local live = state == "R" and now_ms < tonumber(till) and ARGV[2] == "0"
local open = not state or (#state == 1 and string.find("RTI", state, 1, true))
if live or not open then return 1 end
free()
redis.call("HSET", key, "s", "F", "z", "1", "u", now_ms,
  "t", math.max(tonumber(token or 0) + 1, now_us), owned_by(job))
redis.call("HDEL", key, "o", "x", "g")
redis.call("PEXPIRE", key, math.max(horizon_ms, reserved_ms(waiting, window, now_ms)))
return 1
