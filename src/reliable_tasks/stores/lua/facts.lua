-- facts: what a record remembers of jobs beside the one that held it last.
-- A record's own fields describe the job that held the key last. Another job's fact is
-- f:<job> = "line|ended|closed|replays|at_ms|token|delivery", and o:<job> its outcome; token and
-- delivery say who ended the job and who was replayed last. q counts the facts.
local MAX_FACTS, PRUNED_AT_ONCE = 64, 8

local function write_blank(job) -- a record in which nothing runs, or has run
  redis.call("HSET", key, "s", "I", "t", "0", "d", "", "u", "0", owned_by(job))
end

local function no_fact()
  return { line = 0, ended = "", closed = false, replays = 0, token = "0", delivery = "" }
end

local function read_fact(job)
  local packed = redis.call("HGET", key, "f:" .. job)
  if not packed then return nil end
  local line, ended, closed, replays, at, token, delivery =
    string.match(packed, "^(%d+)|(%a?)|(%d)|(%d+)|(%d+)|(%d+)|(.*)$")
  return { line = tonumber(line), ended = ended, closed = closed == "1", replays = tonumber(replays),
           at = tonumber(at), token = token, delivery = delivery }
end

local function prune(now_ms, horizon_ms)
  if tonumber(redis.call("HGET", key, "q") or 0) <= MAX_FACTS then return end
  local ages = {}
  for _, field in ipairs(redis.call("HKEYS", key)) do
    if string.sub(field, 1, 2) == "f:" then
      local job = string.sub(field, 3)
      ages[#ages + 1] = { read_fact(job).at, job }
    end
  end
  table.sort(ages, function(a, b)
    if a[1] ~= b[1] then return a[1] < b[1] end
    return a[2] < b[2]
  end)
  local surplus, gone = #ages - MAX_FACTS + PRUNED_AT_ONCE, 0
  for place, entry in ipairs(ages) do
    if place <= surplus or entry[1] + horizon_ms <= now_ms then
      redis.call("HDEL", key, "f:" .. entry[2], "o:" .. entry[2])
      gone = gone + 1
    end
  end
  redis.call("HSET", key, "q", #ages - gone)
end

local function write_fact(job, fact)
  local is_new = redis.call("HSET", key, "f:" .. job, string.format("%.0f|%s|%d|%d|%.0f|",
    fact.line, fact.ended, fact.closed and 1 or 0, fact.replays, fact.at)
    .. fact.token .. "|" .. fact.delivery)
  if is_new == 1 then redis.call("HINCRBY", key, "q", 1) end
end

local function drop_fact(job)
  redis.call("HDEL", key, "f:" .. job, "o:" .. job)
  if redis.call("HINCRBY", key, "q", -1) == 0 then redis.call("HDEL", key, "q") end
end

local function keep_at_least(ms)
  local left = redis.call("PTTL", key)
  if left >= 0 and left < ms then redis.call("PEXPIRE", key, ms) end
end
