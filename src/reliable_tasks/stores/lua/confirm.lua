-- confirm: a reserved job was published.
-- KEYS[1] the record   ARGV[1] job  [2] keep, ms: how long it may wait from now
--                      ARGV[3] hold, ms: the window from its reservation, 0 for none
-- Returns 1. Only lengthens a reservation and a window that are there. Repeating it is harmless.
-- include: base
-- include: facts
-- include: reservations
local job, keep_ms, hold_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local w, l, h = unpack(redis.call("HMGET", key, "w", "l", "h"))
local now_ms = math.floor(now() / 1000)

local waiting = read_waiting(w)
if waiting and waiting.job == job and now_ms < waiting.till then
  if waiting.turn > tonumber(l or 0) then
    redis.call("HSET", key, "l", string.format("%.0f", waiting.turn))
  end
  waiting.till = math.max(waiting.till, now_ms + keep_ms)
  write_waiting(waiting)
  keep_at_least(waiting.till - now_ms)
end
local window = read_window(h)
if hold_ms > 0 and window and window.job == job then
  window.till = window.since + hold_ms
  write_window(window)
  keep_at_least(window.till - now_ms)
end
return 1
