-- drain: the process that runs this job is shutting down; taking it over is no crash.
-- KEYS[1] the record   ARGV[1] job
-- Returns 1 if noted, 0 if the job does not run. Repeating it is harmless.
-- include: base
local state, j = unpack(redis.call("HMGET", key, "s", "j"))
if state ~= "R" or owner_of(j) ~= ARGV[1] then return 0 end
redis.call("HSET", key, "g", "1")
return 1
