-- drain: the process that runs this job is shutting down; taking it over is no crash.
-- KEYS[1] the record   ARGV[1] job
-- Returns 1 if noted, 0 if the job does not run. Repeating it is harmless.
local held = redis.call("HMGET", KEYS[1], "s", "j")
if held[1] ~= "R" or held[2] ~= ARGV[1] then return 0 end
redis.call("HSET", KEYS[1], "g", "1")
return 1
