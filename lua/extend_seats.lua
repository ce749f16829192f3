--[[ Keep seats whose open order keeps them. A seat that is gone stays gone, and none ever gets shorter.
  KEYS[1] meta      hash
  KEYS[2] leases    zset     member = turn, score = when the seat ends (ms)
  ARGV[1] items     msgpack list of {turn, until_ms}
  Returns {0, kept} | {1} recovering | {22} corrupt ]]
-- include: guard
-- include: line
local meta, leases = KEYS[1], KEYS[2]

if not is_registered(meta) then return {RECOVERING} end
if not are_types({[leases] = "zset"}) then return {CORRUPT} end

local kept = 0
for _, item in ipairs(cmsgpack.unpack(ARGV[1])) do
  kept = kept + redis.call("ZADD", leases, "XX", "GT", "CH", item[2], item[1])
end
return {OK, kept}
