-- confirm: a reserved job was published.
-- KEYS[1] the record   ARGV[1] job  [2] keep, ms: how long it may wait from now
--                      ARGV[3] hold, ms: the window from its reservation, 0 for none
-- Returns 1. Only lengthens a reservation that is there. Repeating it is harmless.
-- include: base
-- include: facts
-- include: reservations
local job, keep_ms, hold_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local state, j, w, l = unpack(redis.call("HMGET", key, "s", "j", "w", "l"))
if not state then return 1 end
local now_ms = math.floor(now() / 1000)
local highest = tonumber(l or 0)
local turn = owner_of(j) == job and highest or 0

local waiting = read_waiting(w)
if waiting and waiting.job == job and now_ms < waiting.till then
  turn = waiting.turn
  if turn > highest then redis.call("HSET", key, "l", string.format("%.0f", turn)) end
  waiting.till = math.max(waiting.till, now_ms + keep_ms)
  write_waiting(waiting)
  keep_at_least(waiting.till - now_ms)
end
if hold_ms > 0 and turn > 0 then
  local till = math.floor(turn / 1000) + hold_ms
  redis.call("HSET", key, "h", string.format("%.0f|", till) .. job)
  keep_at_least(till - now_ms)
end
return 1
