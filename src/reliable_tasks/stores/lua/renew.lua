-- renew: lengthen leases that are still ours; in one step for all the keys given.
-- KEYS[i] a record   ARGV[1] lease, ms  [2] horizon, ms  [2 + i] the token of KEYS[i]
-- Returns one digit per key: 1 lengthened, 0 no longer ours. A token that was overtaken
-- takes its crash off the record's list by asking. Repeating it is harmless.
local t = redis.call("TIME")
local lease_ms, horizon_ms = tonumber(ARGV[1]), tonumber(ARGV[2])
-- Written as text once: a number is written anew for each command that takes it.
local till = string.format("%.0f", math.floor(t[1] * 1000 + t[2] / 1000) + lease_ms)
local kept_ms = string.format("%.0f", lease_ms + horizon_ms)
local answers = {}
for i, key in ipairs(KEYS) do
  local token = ARGV[2 + i]
  local state, current = unpack(redis.call("HMGET", key, "s", "t"))
  local ours = state == "R" and current == token
  if ours then
    redis.call("HSET", key, "u", till)
    redis.call("PEXPIRE", key, kept_ms)
  elseif state and state ~= "Q" and current ~= token then
    local suspects, others = redis.call("HGET", key, "x") or "", {}
    for each in string.gmatch(suspects, "%d+") do
      if each ~= token then others[#others + 1] = each end
    end
    if #others > 0 then
      redis.call("HSET", key, "x", table.concat(others, ","))
    else
      redis.call("HDEL", key, "x")
    end
  end
  answers[i] = ours and "1" or "0"
end
return table.concat(answers)
