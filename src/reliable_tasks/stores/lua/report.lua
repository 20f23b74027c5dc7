-- report: how a run ended, for a circuit breaker; see core/limits.py for the rules.
-- KEYS[1] the breaker
-- ARGV[1] token  [2] failed, 1 or 0  [3] failures  [4] window, ms  [5] open for, ms  [6] probes
--     [7], [8], ... pairs: seconds ago, runs that succeeded then
-- Returns for how long the breaker is open now, ms; 0 if it is not. Repeating it is harmless.
-- include: breaker
local token, failed, window_ms = ARGV[1], ARGV[2] == "1", tonumber(ARGV[4])
local open_for_ms = tonumber(ARGV[5])
local till = tonumber(redis.call("HGET", key, "u"))

local function window(letter) -- what stands in its slices
  local last, names = slice(now_ms, window_ms), {}
  for i = 1, SLICES do names[i] = letter .. whole(last - SLICES + i) end
  return redis.call("HMGET", key, unpack(names))
end

local function is_noted(tokens)
  for at = 1, #tokens, TOKEN do
    if string.sub(tokens, at, at + TOKEN - 1) == token then return true end
  end
  return false
end

if till then
  if now_ms < till then return till - now_ms end
  if redis.call("HDEL", key, "g:" .. token) == 0 then return 0 end
  if failed then
    open(open_for_ms)
    return open_for_ms
  end
  if redis.call("HINCRBY", key, "n", 1) >= tonumber(ARGV[6]) then reset() end
  return 0
end

add(7, window_ms)
if not failed then return 0 end
local failures, noted, successes = 0, false, 0
for _, tokens in ipairs(window("f")) do
  failures = failures + #(tokens or "") / TOKEN
  noted = noted or is_noted(tokens or "")
end
for _, count in ipairs(window("s")) do successes = successes + (tonumber(count) or 0) end
if not noted then
  local name = "f" .. whole(slice(now_ms, window_ms))
  redis.call("HSET", key, name, (redis.call("HGET", key, name) or "") .. token)
  failures = failures + 1
end
if failures < tonumber(ARGV[3]) or failures < successes then
  keep(window_ms + SURPLUS_MS)
  return 0
end
open(open_for_ms)
return open_for_ms
