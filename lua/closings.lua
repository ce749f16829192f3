--[[ Turns that ended, after a stream id, oldest first.
  KEYS[1] meta      hash    whose keys these are
  KEYS[2] closings  stream  consumed by the line's Admitter
  ARGV[1] after, a stream id   ARGV[2] count
  Returns {0, {event_id, fields}, …} | {1} recovering | {22} corrupt    Events: none ]]
-- include: guard
-- include: shop
local meta, closings = KEYS[1], KEYS[2]
if not is_registered(meta) then return {RECOVERING} end
if not has_types(closings, "stream") then return {CORRUPT} end
local answer = redis.call("XRANGE", closings, "(" .. ARGV[1], "+", "COUNT", ARGV[2])
table.insert(answer, 1, OK)
return answer
