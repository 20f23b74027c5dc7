-- withdraw: take the first free place of a retry budget; see core/limits.py for the rules.
-- KEYS[1] the budget
-- ARGV[1] token, 8 characters  [2] wait, ms  [3] ratio  [4] minimum per second
--     [5], [6], ... pairs: seconds ago, calls then
-- Returns how far the place is away, ms. Asking again with the same token gives the same place.
-- Fields: c<second> calls; r<second> tokens whose places are in it; a:<token> when it is due, ms;
-- w seconds before are forgotten; f no second before has room, as it was found at the rate v.
local TOKEN, WINDOW, LONGEST, RISE, AT_ONCE, LONGEST_GAP = 8, 10, 86400, 1.1, 64, 10000
local key, token, wait_ms = KEYS[1], ARGV[1], tonumber(ARGV[2])
local t = redis.call("TIME")
local now_ms = t[1] * 1000 + math.floor(t[2] / 1000)
local second = math.floor(now_ms / 1000)

local function whole(number) return string.format("%.0f", number) end

local function forget(at)
  local tokens = redis.call("HGET", key, "r" .. whole(at)) or ""
  redis.call("HDEL", key, "r" .. whole(at), "c" .. whole(at - WINDOW))
  for each in string.gmatch(tokens, string.rep(".", TOKEN)) do
    redis.call("HDEL", key, "a:" .. each)
  end
end

local w, f, v = unpack(redis.call("HMGET", key, "w", "f", "v"))
w, f, v = tonumber(w), tonumber(f) or 0, tonumber(v) or 0
if w and second - w > LONGEST_GAP then
  redis.call("PEXPIRE", key, 0) -- gone, without the right to delete
elseif w then
  for past = w, second - 1 do forget(past) end
end

local known = redis.call("HGET", key, "a:" .. token)
if known then return math.max(0, known - now_ms) end

for i = 5, #ARGV, 2 do
  redis.call("HINCRBY", key, "c" .. whole(second - ARGV[i]), ARGV[i + 1])
end

local function fields(letter, first, count)
  local names = {}
  for i = 1, count do names[i] = letter .. whole(first + i - 1) end
  return names
end

local calls = 0
for _, count in ipairs(redis.call("HMGET", key, unpack(fields("c", second - WINDOW + 1, WINDOW)))) do
  calls = calls + (tonumber(count) or 0)
end
local rate = tonumber(ARGV[4]) + tonumber(ARGV[3]) * calls / WINDOW

local function places(at) return math.floor(rate * (at + 1)) - math.floor(rate * at) end

-- The first second with room, or the last of all; and the tokens in it.
local function free(start)
  local last, count = math.max(start, second + LONGEST), 1
  while true do
    local found = redis.call("HMGET", key, unpack(fields("r", start, count)))
    for i = 1, count do
      local at, taken = start + i - 1, found[i] or ""
      if at == last or #taken / TOKEN < places(at) then return at, taken end
    end
    start, count = start + count, math.min(4 * count, AT_ONCE)
  end
end

if f < second or rate > RISE * v then f, v = free(second), rate end
local due_ms = now_ms + wait_ms
local start = math.max(math.floor(due_ms / 1000), f)
local at, taken = free(start)
if start == f then f, v = at, math.min(rate, v) end
local offset_ms = math.floor(1000 * (#taken / TOKEN) / math.max(1, places(at)))
local place_ms = math.max(due_ms, at * 1000 + math.min(offset_ms, 999))
redis.call("HSET", key, "r" .. whole(at), taken .. token, "a:" .. token, whole(place_ms),
  "w", whole(second), "f", whole(f), "v", string.format("%.17g", v))
local kept_ms = place_ms - now_ms + 2 * WINDOW * 1000
if redis.call("PTTL", key) < kept_ms then redis.call("PEXPIRE", key, kept_ms) end
return place_ms - now_ms
