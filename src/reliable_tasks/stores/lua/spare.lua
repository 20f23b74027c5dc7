-- spare: a replay ended without closing its job, and its process lives: it is no death.
-- KEYS[1] the record   ARGV[1] job  [2] the delivery that was replayed
-- Returns 1 if it was taken off the count, else 0. Repeating it is harmless.
-- include: base
-- include: facts
local job, delivery = ARGV[1], ARGV[2]
local state, j, last, replays = unpack(redis.call("HMGET", key, "s", "j", "d", "n"))
if not state then return 0 end
if owner_of(j) == job then
  replays = tonumber(replays or 0)
  if (state ~= "D" and state ~= "F") or replays == 0 or last ~= delivery then return 0 end
  redis.call("HSET", key, "n", replays - 1, "d", "")
  return 1
end
local fact = read_fact(job)
if not fact or fact.ended == "" or fact.replays == 0 or fact.delivery ~= delivery then return 0 end
fact.replays, fact.delivery = fact.replays - 1, ""
write_fact(job, fact)
return 1
