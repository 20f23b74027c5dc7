-- unreserve: the job was not published; its reservation and its window are free.
-- KEYS[1] the record   ARGV[1] job
-- Returns 1. A record that held nothing else is gone. Repeating it is harmless.
-- include: base
-- include: reservations
local job = ARGV[1]
local state, token, w, h = unpack(redis.call("HMGET", key, "s", "t", "w", "h"))
if not state then return 1 end
local waiting, window = read_waiting(w), read_window(h)
if waiting and waiting.job == job then redis.call("HDEL", key, "w") end
if window and window.job == job then redis.call("HDEL", key, "h") end
if state ~= "I" or token ~= "0" then return 1 end
for _, field in ipairs(redis.call("HKEYS", key)) do
  if not string.find("stduj", field, 1, true) then return 1 end
end
redis.call("HDEL", key, "s", "t", "d", "u", "j")
return 1
