--[[ Put a sale's hours and limits in force.
  KEYS[1] meta  hash  opens_at_ms, closes_at_ms, limit_per_buyer, hold_ttl_ms, pass_required, record_behind_ms
  ARGV[1] msgpack: a list of {field, value}
  Returns {0, fields changed} | {1} recovering    Events: none ]]
-- include: guard
-- include: shop
local meta = KEYS[1]
if not is_registered(meta) then return {RECOVERING} end
local changed = 0
for _, term in ipairs(cmsgpack.unpack(ARGV[1])) do
  local value = string.format("%.0f", term[2])
  if redis.call("HGET", meta, term[1]) ~= value then
    redis.call("HSET", meta, term[1], value)
    changed = changed + 1
  end
end
return {OK, changed}
