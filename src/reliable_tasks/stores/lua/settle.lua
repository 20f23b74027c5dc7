-- settle: record how the execution that holds a token ended.
-- KEYS[1] the record
-- ARGV[1] token  [2] state D, F, T or I  [3] keep, ms  [4] horizon, ms  [5] died, 1 or 0
--     [6] job  [7] line  [8] outcome, left out if it was not kept
-- Returns 1 settled (repeated: settled again), 2 stale, 3 stale and the copy may be dropped.
-- include: base
local token, state = ARGV[1], ARGV[2]
local held, current, suspects, drained, best, ran, w, h =
  unpack(redis.call("HMGET", key, "s", "t", "x", "g", "b", "a", "w", "h"))

if held and (current ~= token or held ~= "R") then
  if current == token and held == state then return 1 end
  if suspects and held ~= "Q" and current ~= token then
    local others = {}
    for each in string.gmatch(suspects, "%d+") do
      if each ~= token then others[#others + 1] = each end
    end
    if #others == 0 then
      redis.call("HDEL", key, "x")
    else
      redis.call("HSET", key, "x", table.concat(others, ","))
    end
  end
  local closed, line, ended, by
  if owner_of(redis.call("HGET", key, "j")) == ARGV[6] then
    closed, line = redis.call("HGET", key, "z"), best
  else
    local packed = redis.call("HGET", key, "f:" .. ARGV[6])
    if packed then
      line, ended, closed, by = string.match(packed, "^(%d+)|(%a?)|(%d)|%d+|%d+|(%d+)|")
    end
  end
  if by == token and ended == state then return 1 end -- another job came in between
  if closed == "1" or tonumber(ARGV[7]) < tonumber(line or 0) then return 3 end
  return 2
end

local keep_ms, kept_ms = tonumber(ARGV[3]), tonumber(ARGV[4])
local now_ms = math.floor(now() / 1000)
local fields = { "s", state, "u", now_ms + keep_ms }
local function set(name, value)
  fields[#fields + 1] = name
  fields[#fields + 1] = value
end
if not held then
  set("t", token)
  if ARGV[6] ~= named() then set("j", ARGV[6]) end
  set("d", "")
  best, ran = ARGV[7], math.floor(tonumber(ARGV[7]) / 1000000)
  if best ~= "0" then set("b", best) end
  if ran > 0 then set("a", ran) end
end
if ARGV[8] then set("o", ARGV[8]) end
if ARGV[5] == "1" and not drained then set("x", suspects and (suspects .. "," .. token) or token) end
if state == "T" then
  local retry = (tonumber(ran or 0) + 1) * 1000000
  if retry > tonumber(best or 0) then set("b", retry) end
end
redis.call("HSET", key, unpack(fields))
if drained then redis.call("HDEL", key, "g") end
if state == "D" or state == "F" then
  if suspects then redis.call("HDEL", key, "x") end
  kept_ms = math.max(keep_ms, kept_ms)
else
  kept_ms = keep_ms + kept_ms
end
if w or h then
-- include: reservations
  local waiting, window = read_waiting(w), read_window(h)
  if waiting and waiting.job == ARGV[6] then
    redis.call("HDEL", key, "w")
    waiting = nil
  end
  kept_ms = math.max(kept_ms, reserved_ms(waiting, window, now_ms))
end
redis.call("PEXPIRE", key, kept_ms)
return 1
