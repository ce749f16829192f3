--[[ Let numbering go on up to a ceiling that Postgres already holds. Never lowers it.
  KEYS[1] meta      hash     ceiling
  ARGV[1] ceiling
  Returns {0, ceiling} | {1} recovering ]]
-- include: guard
local meta = KEYS[1]
local OK, RECOVERING = 0, 1

if not is_registered(meta) then return {RECOVERING} end
local ceiling = math.max(tonumber(redis.call("HGET", meta, "ceiling")) or 0, tonumber(ARGV[1]))
redis.call("HSET", meta, "ceiling", ceiling)
return {OK, ceiling}
