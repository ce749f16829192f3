--[[ Register a line with the server it is on: a new epoch, or the same data after a restart. The run id is written last:
  until then every script answers recovering, and whoever died before can be repeated.
  Numbering goes on at what Postgres held as the ceiling: nothing above it was ever given, whatever this Redis forgot.
  KEYS[1] meta      hash
  KEYS[2] policy    hash
  KEYS[3] pauses    set
  ARGV[1] is_again  1 = the same epoch after a restart, 0 = a new epoch
  ARGV[2] epoch     ARGV[3] tail     ARGV[4] ceiling
  ARGV[5] gather_ms how long places are gathered before anybody is let in; 0 = not at all
  ARGV[6] admitted  ARGV[7] serving  what the record knows, for a new epoch
  ARGV[8] settings  msgpack list, see includes/settings.lua
  ARGV[9] run_id    of the server that Postgres was told of: another one has started since? Then look again
  Returns {0} | {9} look again: another server, another epoch's data, none, or somebody was faster | {22} corrupt ]]
-- include: guard
-- include: line
-- include: bucket
-- include: settings
local meta, policy, pauses = KEYS[1], KEYS[2], KEYS[3]
local is_again, epoch, tail, ceiling = ARGV[1] == "1", tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local gather_ms = tonumber(ARGV[5])
local STALE = 9

if not are_types({[meta] = "hash", [policy] = "hash", [pauses] = "set"}) then return {CORRUPT} end
if is_registered(meta) or server_run_id() ~= ARGV[9] then return {STALE} end
local known_epoch = tonumber(redis.call("HGET", meta, "epoch"))
if is_again and known_epoch ~= epoch then return {STALE} end
if not is_again and known_epoch then return {STALE} end

local now = clock_ms()
local known_tail = tonumber(redis.call("HGET", meta, "tail")) or 0
redis.call("HSET", meta, "epoch", epoch, "tail", math.max(known_tail, tail),
  "ceiling", math.max(ceiling, tonumber(redis.call("HGET", meta, "ceiling")) or 0), "presence_valid_from_ms", now,
  "stock_at_ms", 0, "web_ms", 0, "tick_ms", now, "bucket_at_ms", now)
if not is_again then
  redis.call("HSET", meta, "admitted", ARGV[6], "serving", ARGV[7], "bucket", 0)
end
if gather_ms > 0 then
  redis.call("SADD", pauses, "recovering")
  redis.call("HSET", meta, "gather_until_ms", now + gather_ms)
end
apply_settings(meta, policy, pauses, read_line(meta, pauses, now), cmsgpack.unpack(ARGV[8]), now)
-- A first opening finds the bucket full; after a loss it is empty, so that no burst is let in twice.
if not is_again and gather_ms == 0 then
  redis.call("HSET", meta, "bucket", burst_of(tonumber(redis.call("HGET", policy, "rate_centi"))) * PERSON)
end
redis.call("HINCRBY", meta, "sync_no", 1)
redis.call("HSET", meta, "run_id", ARGV[9])
return {OK}
