--[[ Register a line with the server it is on: a new epoch, or the same data after a restart. The run id is written last:
  until then every script answers recovering, and whoever died before can be repeated.
  Numbering goes on at what Postgres held as the ceiling: nothing above it was ever given, whatever this Redis forgot.
  Of the same data its end may be missing: what the record or a reader has seen of it stays behind what follows.
  KEYS[1] meta      hash
  KEYS[2] policy    hash
  KEYS[3] pauses    set
  KEYS[4] admissions  stream  recorded by the Flusher
  ARGV[1] is_again  1 = the same epoch after a restart, 0 = a new epoch
  ARGV[2] epoch     ARGV[3] tail     ARGV[4] ceiling
  ARGV[5] gather_ms how long places are gathered before anybody is let in; 0 = not at all
  ARGV[6] admitted  ARGV[7] serving  what the record knows
  ARGV[8] settings  msgpack list, see includes/settings.lua
  ARGV[9] run_id    of the server that Postgres was told of: another one has started since? Then look again
  ARGV[10] upto     how far the record has read this epoch's admissions
  Returns {0} | {9} look again: another server, another epoch's data, none, or somebody was faster | {22} corrupt ]]
-- include: guard
-- include: line
-- include: bucket
-- include: settings
local meta, policy, pauses, admissions = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local is_again, epoch, tail, ceiling = ARGV[1] == "1", tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local gather_ms = tonumber(ARGV[5])
local STALE = 9

if not are_types({[meta] = "hash", [policy] = "hash", [pauses] = "set", [admissions] = "stream"}) then return {CORRUPT} end
if is_registered(meta) or server_run_id() ~= ARGV[9] then return {STALE} end
local known_epoch = tonumber(redis.call("HGET", meta, "epoch"))
if is_again and known_epoch ~= epoch then return {STALE} end
if not is_again and known_epoch then return {STALE} end

local now = clock_ms()
local known = redis.call("HMGET", meta, "tail", "ceiling", "admitted", "serving", "seq")
for i = 1, 5 do known[i] = tonumber(known[i]) or 0 end
redis.call("HSET", meta, "epoch", epoch, "tail", math.max(known[1], tail), "ceiling", math.max(known[2], ceiling),
  "admitted", math.max(known[3], tonumber(ARGV[6])), "serving", math.max(known[4], tonumber(ARGV[7])),
  "presence_valid_from_ms", now, "stock_at_ms", 0, "tick_ms", now, "bucket", 0, "bucket_at_ms", now,
  -- Nobody waits in a line that was never used. In any other, web processes have as long to come back as they may be
  -- away: a turn that nobody can tell would be lost.
  "web_ms", (is_again or gather_ms > 0) and now or 0)
if is_again then
  -- Documents that this data forgot may have been shown. Ten a second are more than are made on the average.
  redis.call("HSET", meta, "seq", math.max(known[5], math.floor(now / 100)))
  -- The record reads after `upto`: with a clock that is behind, events would be written where it has read already.
  local mark = redis.pcall("XADD", admissions, ARGV[10], "verb", "resumed")
  if type(mark) == "string" then redis.call("XDEL", admissions, mark) end
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
