--[[ Whose keys these are.
  KEYS[1] meta  hash  run_id
  Returns {0, run id they were registered with or "", the server's own, now_ms} | {22} corrupt    Events: none ]]
-- include: guard
-- include: shop
local meta = KEYS[1]
if not has_types(meta, "hash") then return {CORRUPT} end
return {OK, redis.call("HGET", meta, "run_id") or "", server_run_id(), clock_ms()}
