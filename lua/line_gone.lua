--[[ Write a piece of the bitmap of those who are gone, as Postgres has it, into a line that is not registered yet. Safe to
  repeat.
  KEYS[1] meta      hash
  KEYS[2] gone      bitmap   places that had their turn, left or expired
  ARGV[1] offset    bytes    ARGV[2] bits
  Returns {0} | {9} registered already | {22} corrupt ]]
-- include: guard
-- include: line
local meta, gone = KEYS[1], KEYS[2]
local STALE = 9

if is_registered(meta) then return {STALE} end
if not are_types({[meta] = "hash", [gone] = "string"}) then return {CORRUPT} end
redis.call("SETRANGE", gone, ARGV[1], ARGV[2])
return {OK}
