-- reserve: may a job be published? One atomic step; see core/reservations.py for the rules.
-- KEYS[1] the record
-- ARGV[1] job  [2] grace, ms  [3] latest, 1 or 0  [4] payload  [5] delay, ms  [6] limit, ms
--     [7] hold, ms
-- Returns {1, turn, delay in ms, now in us} reserved   {0, job, reason, now in us} a duplicate of it
-- Asking again for the same job changes nothing and is answered the same.
-- include: base
local job, grace_ms, latest, payload = ARGV[1], tonumber(ARGV[2]), ARGV[3] == "1", ARGV[4]
local delay_ms, limit_ms, hold_ms = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local now_us = now()
local now_ms = math.floor(now_us / 1000)

-- Nearly every call is the first of its key, and needs nothing of what follows.
if delay_ms == 0 and hold_ms == 0 and redis.call("EXISTS", key) == 0 then
  local waiting = string.format("%.0f|%.0f|%.0f|0|", now_ms + grace_ms, now_us, now_ms)
  redis.call("HSET", key, "s", "I", "t", "0", "d", "", "u", "0",
    "w", waiting .. payload .. "|" .. job, owned_by(job))
  redis.call("PEXPIRE", key, grace_ms)
  return { 1, latest and now_us or 0, 0, now_us }
end

-- include: facts
-- include: reservations
local state, j, till, closed, paid, w, l, h =
  unpack(redis.call("HMGET", key, "s", "j", "u", "z", "p", "w", "l", "h"))

if state and (#state ~= 1 or not string.find("RTIDF", state, 1, true)) then
  return { 1, 0, delay_ms, now_us }
end

local function due_after(first_ms)
  local due = now_ms + delay_ms
  if limit_ms > 0 and first_ms > 0 then return math.min(due, first_ms + limit_ms) end
  return due
end

-- A duplicate, unless arguments that must agree do not, which is judged when it runs.
local function duplicate(other, reason, others)
  if not latest and (others or "") ~= "" and payload ~= "" and others ~= payload then
    return { 1, 0, delay_ms, now_us }
  end
  return { 0, other, reason, now_us }
end

-- the job that waits
local waiting = read_waiting(w)
local last_turn = math.max(tonumber(l or 0), waiting and waiting.turn or 0)
if waiting and now_ms >= waiting.till then waiting = nil end
if waiting and waiting.job == job then
  return { 1, latest and waiting.turn or 0, math.max(0, waiting.due - now_ms), now_us }
end
if waiting and latest then -- who cannot be put off is passed over by those who are
  if delay_ms > 0 and waiting.first == 0 then waiting = nil end
elseif waiting and state == "D" and waiting.due < tonumber(till) and waiting.payload == (paid or "")
  and redis.call("HEXISTS", key, "o") == 1 then
  waiting = nil -- what ran after it was called will be its answer, and is none to this call
end
if waiting and not (latest and waiting.payload ~= payload) then
  if latest and delay_ms > 0 then
    local due = math.max(waiting.due, due_after(waiting.first))
    waiting.till, waiting.due = waiting.till + due - waiting.due, due
    write_waiting(waiting)
    keep_at_least(waiting.till - now_ms)
  end
  return duplicate(waiting.job, "queued", waiting.payload)
end

-- the window
local window = read_window(h)
if window and window.job ~= job and now_ms < window.till then
  return { 0, window.job, "held", now_us }
end

-- the state of the key
if state then
  local owner, live = owner_of(j), now_ms < tonumber(till or 0)
  local over
  if owner == job then
    over = closed == "1" or state == "D" or state == "F"
  else
    local fact = read_fact(job)
    over = fact and (fact.closed or fact.ended ~= "")
  end
  if over or (live and owner == job) then return { 1, 0, delay_ms, now_us } end
  if live and not latest then
    local reasons = { R = "running", T = "retrying", I = "queued", D = "done", F = "failed" }
    return duplicate(owner, reasons[state], paid)
  end
else
  write_blank(job)
  redis.call("PEXPIRE", key, grace_ms)
end

local first = 0
if latest and delay_ms > 0 then first = waiting and waiting.first or now_ms end
local turn = math.max(last_turn + 1, now_us)
local due = due_after(first)
write_waiting({ till = now_ms + grace_ms, turn = turn, due = due, first = first,
                payload = payload, job = job })
if hold_ms > 0 then
  write_window({ till = now_ms + math.min(hold_ms, grace_ms), since = now_ms, job = job })
end
if state then keep_at_least(grace_ms) end
return { 1, latest and turn or 0, math.max(0, due - now_ms), now_us }
