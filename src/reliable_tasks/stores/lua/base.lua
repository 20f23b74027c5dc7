-- base: what all scripts on one record share. Whole numbers are exact as arguments of redis.call
-- up to 2^53; joined with .. they keep 14 digits.
local key = KEYS[1]

local function now() -- in microseconds
  local t = redis.call("TIME")
  return t[1] * 1000000 + t[2]
end

-- The job that held the record last is its field j, which is left out where the key itself ends
-- in ":@<job>", as it does when the message is the identity.
local function named() return string.match(key, ".*:@(.*)$") end
local function owner_of(j) return j or named() or "" end
local function owned_by(job)
  if job ~= named() then return "j", job end
end
