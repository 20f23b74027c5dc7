-- bury: keep the letter of a job on a shelf, and name the others that are too old or too many.
-- KEYS[1] the shelf  [2] its index: jobs by when their letters were written
-- ARGV[1] job  [2] letter  [3] when it was written, ms  [4] letters at most
--     [5] when the oldest may have been written, ms  [6] how many are named at most
-- Returns job, when, job, when, ... the oldest first. Repeating it is harmless.
local shelf, index, job = KEYS[1], KEYS[2], ARGV[1]
redis.call("HSET", shelf, job, ARGV[2])
redis.call("ZADD", index, ARGV[3], job)
local surplus = redis.call("ZCARD", index) - ARGV[4]
local oldest = redis.call("ZRANGE", index, 0, ARGV[6] - 1, "WITHSCORES")
local named = {}
for at = 1, #oldest, 2 do
  local is_surplus = (at + 1) / 2 <= surplus or tonumber(oldest[at + 1]) < tonumber(ARGV[5])
  if oldest[at] ~= job and is_surplus then
    named[#named + 1] = oldest[at]
    named[#named + 1] = oldest[at + 1]
  end
end
return named
