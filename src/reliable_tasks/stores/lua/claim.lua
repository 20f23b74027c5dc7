-- claim: may this delivery of a job run? One atomic step; see core/decisions.py for the table.
-- KEYS[1] the record
-- ARGV[1] lease, ms  [2] horizon, ms  [3] max_crashes  [4] delivery  [5] job  [6] line  [7] payload
--     [8] turn, 0 for none, or when the call was due in us, negated
--     [9...] earlier deliveries of the job that are over; left out, as is the turn, if there is none
-- Returns {1, token, crashes, delivery, token} granted, the last two of an execution that died
--         {2, remaining ms, same job, newer} busy
--         {3, state, same job, replays, retention left in ms, outcome or nil} finished
--         {4, reason} superseded    {5, crashes, delivery, token} poisoned, by that execution last
--         {6} reused    {7} unreadable    {8, remaining ms} early
-- Asking again with the same delivery changes nothing and is answered the same.
-- include: base
local lease_ms, horizon_ms, max_crashes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local delivery, job, line, payload = ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
local now_us = now()
local now_ms = math.floor(now_us / 1000)
local retries = math.floor(line / 1000000)

-- Nearly every message is the first of its key, and needs nothing of what follows.
local exists = redis.call("EXISTS", key) == 1
if not exists and line == 0 and payload == "" and not ARGV[8] then
  redis.call("HSET", key, "s", "R", "t", now_us, "d", delivery, "u", now_ms + lease_ms, owned_by(job))
  redis.call("PEXPIRE", key, lease_ms + horizon_ms)
  return { 1, now_us, 0 }
end

local function start(token, best, crashes, kept_ms)
  local fields = { "s", "R", "t", token, "d", delivery, "u", now_ms + lease_ms }
  local gone = {}
  local function set(name, value, absent)
    if value ~= absent then
      fields[#fields + 1] = name
      fields[#fields + 1] = value
    else
      gone[#gone + 1] = name
    end
  end
  set("j", job, named())
  set("b", best, 0)
  set("a", retries, 0)
  set("p", payload, "")
  redis.call("HSET", key, unpack(fields))
  if exists then redis.call("HDEL", key, "z", "n", "m", "g", "o", unpack(gone)) end
  redis.call("PEXPIRE", key, kept_ms)
  return { 1, token, crashes }
end

local turn = tonumber(ARGV[8] or 0)
if not exists then
  if turn > 0 then redis.call("HSET", key, "l", ARGV[8]) end
  return start(now_us, line, 0, lease_ms + horizon_ms)
end

-- include: facts
-- include: reservations
local state, j, token, last, till, best, closed, replays, suspects, paid, drained, ran, w, l, h =
  unpack(redis.call("HMGET", key, "s", "j", "t", "d", "u", "b", "z", "n", "x", "p", "g", "a",
    "w", "l", "h"))
local owner = owner_of(j)
local same = owner == job
local crashes = 0
if suspects then crashes = select(2, string.gsub(suspects, "%d+", "")) end
local died = false
local waiting, highest = read_waiting(w), tonumber(l or 0)

local function wait_no_longer()
  if waiting and waiting.job == job then
    redis.call("HDEL", key, "w")
    waiting = nil
  end
end

-- The job runs: older calls come too late. Returns how long the record is kept.
local function begin()
  if waiting and waiting.job == job then turn = math.max(turn, waiting.turn) end
  wait_no_longer()
  if turn > highest then redis.call("HSET", key, "l", string.format("%.0f", turn)) end
  return math.max(lease_ms + horizon_ms, reserved_ms(waiting, read_window(h), now_ms))
end

local function grant()
  best = tonumber(best or 0)
  if not same then
    local ended = (state == "D" or state == "F") and state or ""
    local over, shut = ended ~= "", closed == "1"
    if best > 0 or over or shut then
      write_fact(owner, { line = best, ended = ended, closed = shut, replays = tonumber(replays or 0),
                          at = now_ms, token = over and token or "0",
                          delivery = over and not shut and last or "" })
      local outcome = redis.call("HGET", key, "o")
      if outcome and not shut then redis.call("HSET", key, "o:" .. owner, outcome) end
    end
    local mine = read_fact(job)
    best = mine and mine.line or 0
    if mine then drop_fact(job) end
    prune(now_ms, horizon_ms)
  end
  local fresh = math.max(tonumber(token or 0) + 1, now_us)
  local reply = start(fresh, math.max(best, line), crashes, begin())
  if died then reply[4], reply[5] = last, token end
  return reply
end

local function is_abandoned(by)
  for i = 9, #ARGV do
    if ARGV[i] == by then return true end
  end
  return false
end

if not string.find("RTIDFQ", state, 1, true) or #state ~= 1 then return { 7 } end

-- the job itself: closed, older, ended
local fact
if same then
  fact = { line = tonumber(best or 0), ended = (state == "D" or state == "F") and state or "",
           closed = closed == "1", replays = tonumber(replays or 0), delivery = last }
else
  fact = read_fact(job) or no_fact()
end
local function ended_answer()
  local outcome = redis.call("HGET", key, same and "o" or "o:" .. job)
  return { 3, fact.ended, 1, fact.replays, 0, outcome }
end
if fact.delivery == delivery then
  if state == "R" and same then return { 1, tonumber(token), crashes } end
  if fact.ended ~= "" then return ended_answer() end
  if state == "Q" then return { 5, crashes, last, token } end -- since the question was asked first
  return { 4, "repeated" }
end
if fact.closed then return { 4, "closed" } end
if line < fact.line then return { 4, "older" } end
if fact.ended ~= "" then
  if fact.replays > 0 and is_abandoned(fact.delivery) then fact.replays = fact.replays - 1 end
  if fact.replays >= max_crashes then -- the last replay may still be at work
    local at = fact.at or tonumber(redis.call("HGET", key, "m") or 0)
    if at + lease_ms > now_ms then return { 2, at + lease_ms - now_ms, 1, 0 } end
    return { 5, fact.replays }
  end
  fact.replays = fact.replays + 1
  if same then
    redis.call("HSET", key, "n", fact.replays, "d", delivery, "m", now_ms)
  else
    fact.delivery, fact.at = delivery, now_ms
    write_fact(job, fact)
  end
  return ended_answer()
end

-- the key: for a job that has not ended what runs there, later calls, and its state decide
local left_ms = tonumber(till or 0) - now_ms
local live = left_ms > 0
local runs = state == "R" and not is_abandoned(last)
local newer = same and retries > tonumber(ran or 0)
if live and runs and same then return { 2, left_ms, 1, newer and 1 or 0 } end
if turn > 0 and turn < highest then
  if same and state == "T" then redis.call("HSET", key, "s", "I", "u", now_ms) end
  return { 4, "replaced" }
end
if turn > 0 and waiting and waiting.job == job and now_ms < waiting.till and now_ms < waiting.due then
  return { 8, waiting.due - now_ms }
end
if state == "Q" then return { 5, crashes, last, token } end
if turn < 0 and not same and state == "D" and -turn < till * 1000 and (paid or "") == payload then
  local outcome = redis.call("HGET", key, "o")
  if outcome then -- due before the job that ran was done, or while it is kept
    wait_no_longer()
    return { 3, state, 0, 0, math.max(0, left_ms), outcome }
  end
end
if live and not same and state ~= "I" then
  if paid and payload ~= "" and paid ~= payload then
    wait_no_longer()
    return { 6 }
  end
  if state == "D" or state == "F" then
    wait_no_longer()
    return { 3, state, 0, 0, left_ms, redis.call("HGET", key, "o") }
  end
end
if live and (runs or (state == "T" and not same)) then return { 2, left_ms, 0, 0 } end
if runs and not drained then
  died = true
  suspects = suspects and (suspects .. "," .. token) or token
  crashes = crashes + 1
  redis.call("HSET", key, "x", suspects)
end
if crashes >= max_crashes then
  redis.call("HSET", key, "s", "Q")
  redis.call("HDEL", key, "g")
  redis.call("PERSIST", key)
  return { 5, crashes, last, token }
end
return grant()
