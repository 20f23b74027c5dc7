-- admit: may a run begin? One atomic step; see core/limits.py for the rules.
-- KEYS[1] the breaker
-- ARGV[1] token  [2] window, ms  [3] open for, ms  [4] probes
--     [5], [6], ... pairs: seconds ago, runs that succeeded then
-- Returns {0, 0} closed   {1, 0} yes, as a probe   {2, for how long it stays open, ms} no
-- Asking again with the same token gives the same probe.
-- include: breaker
local token, window_ms, open_for_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local till = tonumber(redis.call("HGET", key, "u"))

if not till then
  if #ARGV > 4 then add(5, window_ms) end
  return { 0, 0 }
end
if now_ms < till then return { 2, till - now_ms } end

local under_way = 0
for _, name in ipairs(redis.call("HKEYS", key)) do
  if string.sub(name, 1, 2) == "g:" then
    local place_till = tonumber(redis.call("HGET", key, name))
    if now_ms < place_till then
      if name == "g:" .. token then return { 1, 0 } end
      under_way = under_way + 1
    elseif place_till <= now_ms - LATE * open_for_ms then
      redis.call("HDEL", key, name)
    end
  end
end
if under_way + tonumber(redis.call("HGET", key, "n") or 0) >= tonumber(ARGV[4]) then return { 2, 0 } end
redis.call("HSET", key, "g:" .. token, whole(now_ms + open_for_ms))
keep(2 * open_for_ms + SURPLUS_MS)
return { 1, 0 }
