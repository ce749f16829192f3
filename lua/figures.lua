--[[ Units of the whole sale in one snapshot. An item below zero free (the record outranked Redis) counts as none.
  KEYS[1] meta   hash  units_kept, units_back
  KEYS[2] stock  hash  units by product and counter
  Returns {0, free, held, claimed, sold, now_ms, kept, back} | {1} recovering | {22} corrupt    Events: none ]]
-- include: guard
-- include: shop
local meta, stock = KEYS[1], KEYS[2]
if not is_registered(meta) then return {RECOVERING} end
if not has_types(stock, "hash") then return {CORRUPT} end
local now_ms = clock_ms()
local sums = {free = 0, held = 0, claimed = 0, sold = 0}
local entries = redis.call("HGETALL", stock)
for i = 1, #entries, 2 do
  local counter, units = string.match(entries[i], ":(%a+)$"), tonumber(entries[i + 1])
  if not units then return {CORRUPT} end
  if sums[counter] then sums[counter] = sums[counter] + math.max(0, units) end
end
local outcomes = redis.call("HMGET", meta, "units_kept", "units_back")
return {
  OK, sums.free, sums.held, sums.claimed, sums.sold, now_ms, tonumber(outcomes[1]) or 0, tonumber(outcomes[2]) or 0
}
