-- reservations: which job of the key waits, and whose window holds others back.
-- w = "until|turn|due|first|payload|job" is the job that waits, h = "until|since|job" the window, and
-- l the highest turn that was published or has begun.
local function read_waiting(packed)
  if not packed then return nil end
  local till, turn, due, first, payload, job =
    string.match(packed, "^(%d+)|(%d+)|(%d+)|(%d+)|([^|]*)|(.*)$")
  return { till = tonumber(till), turn = tonumber(turn), due = tonumber(due),
           first = tonumber(first), payload = payload, job = job }
end

local function write_waiting(waiting)
  redis.call("HSET", key, "w", string.format("%.0f|%.0f|%.0f|%.0f|",
    waiting.till, waiting.turn, waiting.due, waiting.first) .. waiting.payload .. "|" .. waiting.job)
end

local function read_window(packed)
  if not packed then return nil end
  local till, since, job = string.match(packed, "^(%d+)|(%d+)|(.*)$")
  return { till = tonumber(till), since = tonumber(since), job = job }
end

local function write_window(window)
  redis.call("HSET", key, "h", string.format("%.0f|%.0f|", window.till, window.since) .. window.job)
end

-- How long the record must be kept for them, from now.
local function reserved_ms(waiting, window, now_ms)
  return math.max(waiting and waiting.till - now_ms or 0, window and window.till - now_ms or 0)
end
