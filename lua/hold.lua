--[[ Hold the line still in one holder's name, or let that holder's hand go, while Postgres cannot be told. Safe to repeat;
  nobody lifts another's hold.
  KEYS[1] meta      hash     bucket, sync_no
  KEYS[2] policy    hash     rate_centi
  KEYS[3] pauses    set      holders of the line
  ARGV[1] holder    ARGV[2] is_held  1 or 0
  Returns {0, changed} | {1} recovering | {22} corrupt ]]
-- include: guard
-- include: line
-- include: bucket
-- include: settings
local meta, policy, pauses = KEYS[1], KEYS[2], KEYS[3]

if not is_registered(meta) then return {RECOVERING} end
if not are_types({[policy] = "hash", [pauses] = "set"}) then return {CORRUPT} end

local now = clock_ms()
local line = read_line(meta, pauses, now)
-- Settled first: what had flowed until now is kept, and the time of the hold is not paid out afterwards.
local level, at_ms = bucket_now(meta, policy, line, now)
redis.call("HSET", meta, "bucket", level, "bucket_at_ms", at_ms, "is_due", 1)
-- Whoever read Postgres before this is too old to write.
redis.call("HINCRBY", meta, "sync_no", 1)
local change = ARGV[2] == "1" and hold_by or lift
return {OK, change(meta, pauses, ARGV[1], now) and 1 or 0}
