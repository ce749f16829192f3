--[[ Show a document to everybody, once: numbers only go up by one, whoever made it.
  KEYS[1] meta      hash     seq, shown_state, shown_reason
  KEYS[2] frame     string   the newest document
  KEYS[3] feed      channel
  ARGV[1] seq       ARGV[2] state       ARGV[3] reason      ARGV[4] document
  ARGV[5] messages  msgpack list of what to publish, in order
  Returns {0} | {1} recovering | {9} this number was taken | {22} corrupt    Published: frame, changed, ended ]]
-- include: guard
-- include: line
local meta, frame, feed = KEYS[1], KEYS[2], KEYS[3]
local STALE = 9

if not is_registered(meta) then return {RECOVERING} end
if not are_types({[frame] = "string"}) then return {CORRUPT} end
if (tonumber(redis.call("HGET", meta, "seq")) or 0) + 1 ~= tonumber(ARGV[1]) then return {STALE} end

redis.call("HSET", meta, "seq", ARGV[1], "shown_state", ARGV[2], "shown_reason", ARGV[3])
redis.call("SET", frame, ARGV[4])
for _, message in ipairs(cmsgpack.unpack(ARGV[5])) do redis.call("PUBLISH", feed, message) end
return {OK}
