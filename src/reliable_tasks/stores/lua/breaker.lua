-- breaker: what the scripts on one circuit breaker share. Times in ms, by the server's clock.
-- Fields: u open until; f<slice> tokens of the runs that failed in it, 8 characters each;
-- s<slice> how many succeeded; g:<token> until when a probe has its place; n probes that succeeded;
-- w the slice in which old ones were last looked for.
local TOKEN, SLICES, LATE, SURPLUS_MS = 8, 10, 60, 60000
local key = KEYS[1]
local t = redis.call("TIME")
local now_ms = t[1] * 1000 + math.floor(t[2] / 1000)

local function whole(number) return string.format("%.0f", number) end

local function keep(ms)
  if redis.call("PTTL", key) < ms then redis.call("PEXPIRE", key, ms) end
end

local function slice(moment_ms, window_ms) return math.floor(moment_ms * SLICES / window_ms) end

local function forget(at) -- the slices outside of the window that ends with this one
  if redis.call("HGET", key, "w") == whole(at) then return end
  for _, name in ipairs(redis.call("HKEYS", key)) do
    local number = tonumber(string.match(name, "^[fs](%d+)$"))
    if number and (number <= at - SLICES or number > at) then redis.call("HDEL", key, name) end
  end
  redis.call("HSET", key, "w", whole(at))
end

-- Adds successes, given from ARGV[from] on as pairs (seconds ago, how many), while it is closed.
local function add(from, window_ms)
  for i = from, #ARGV, 2 do
    local at = slice(now_ms - 1000 * ARGV[i], window_ms)
    redis.call("HINCRBY", key, "s" .. whole(at), ARGV[i + 1])
  end
  forget(slice(now_ms, window_ms))
  keep(window_ms + SURPLUS_MS)
end

local function reset() redis.call("PEXPIRE", key, 0) end -- gone, without the right to delete

local function open(open_for_ms)
  reset()
  redis.call("HSET", key, "u", whole(now_ms + open_for_ms))
  keep(2 * open_for_ms + SURPLUS_MS) -- whoever waited for its end proves that all is well
end
