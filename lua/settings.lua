--[[ Write what Postgres says of a sale into its line. `sync_no` was read before Postgres was: of two writers the one who
  read Postgres earlier finds it moved, and reads again.
  KEYS[1] meta      hash     schedule, bucket, sync_no
  KEYS[2] policy    hash     what operators set
  KEYS[3] pauses    set      holders of the line
  ARGV[1] seen      sync_no that was read
  ARGV[2] settings  msgpack list, see includes/settings.lua
  Returns {0} | {1} recovering | {9} read again | {22} corrupt ]]
-- include: guard
-- include: line
-- include: bucket
-- include: settings
local meta, policy, pauses = KEYS[1], KEYS[2], KEYS[3]
local STALE = 9

if not is_registered(meta) then return {RECOVERING} end
if not are_types({[policy] = "hash", [pauses] = "set"}) then return {CORRUPT} end
if (tonumber(redis.call("HGET", meta, "sync_no")) or 0) ~= tonumber(ARGV[1]) then return {STALE} end

local now = clock_ms()
apply_settings(meta, policy, pauses, read_line(meta, pauses, now), cmsgpack.unpack(ARGV[2]), now)
redis.call("HINCRBY", meta, "sync_no", 1)
return {OK}
