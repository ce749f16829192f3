--[[ Say how far a stream is recorded: trim behind it, mirror it beside the stock (forward only), publish. Trims by the
  record's progress and by time, never by length. Safe to repeat. Works with memory full.
  KEYS[1] meta      hash     money_upto, holds_upto
  KEYS[2] money     stream   consumed by the Flusher
  KEYS[3] holdings  stream   consumed by the Flusher
  KEYS[4] verdicts  channel  every process listens
  ARGV[1] stream: money or holdings   ARGV[2] upto, a stream id   ARGV[3] how far behind it to keep (ms)
  ARGV[4] the announcement (JSON)
  Returns {0, listeners} | {1} recovering | {22} corrupt    Events: none ]]
-- include: guard
-- include: shop
-- include: stream_ids
local meta, money, holdings, verdicts = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local stream, upto, keep_ms, announcement = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
if not is_registered(meta) then return {RECOVERING} end
if not has_types(money, "stream", holdings, "stream") or not parts_of(upto) then return {CORRUPT} end
local field = stream == "money" and "money_upto" or "holds_upto"
local known = redis.call("HGET", meta, field) or "0-0"
if not parts_of(known) then return {CORRUPT} end

-- First, because it frees: Redis refuses no later write of a script that has begun to write.
local keep_from_ms = math.max(0, parts_of(upto) - keep_ms)
redis.call("XTRIM", stream == "money" and money or holdings, "MINID", "~", keep_from_ms .. "-0")
if is_after(upto, known) then redis.call("HSET", meta, field, upto) end
return {OK, redis.call("PUBLISH", verdicts, announcement)}
