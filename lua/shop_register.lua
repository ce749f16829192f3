--[[ Accept keys that survived a restart of their server. The caller has compared them with the record.
  KEYS[1] meta  hash  run_id
  ARGV[1] the run id the keys had when they were compared
  Returns {0, the server's run id, now_ms} | {9} not the keys that were compared    Events: none ]]
-- include: guard
-- include: shop
local meta = KEYS[1]
local known = redis.pcall("HGET", meta, "run_id")
local own = server_run_id()
if type(known) ~= "string" or (known ~= ARGV[1] and known ~= own) then return {STALE} end
redis.call("HSET", meta, "run_id", own)
return {OK, own, clock_ms()}
