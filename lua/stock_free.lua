--[[ Units free of every item of the sale; an item below zero free counts as none.
  KEYS[1] meta   hash  whose keys these are
  KEYS[2] stock  hash  units by product and counter
  Returns {0, product, free, product, free, …} | {1} recovering | {22} corrupt    Events: none ]]
-- include: guard
-- include: shop
local meta, stock = KEYS[1], KEYS[2]
if not is_registered(meta) then return {RECOVERING} end
if not has_types(stock, "hash") then return {CORRUPT} end
local answer = {OK}
local entries = redis.call("HGETALL", stock)
for i = 1, #entries, 2 do
  local product = string.match(entries[i], "^(.+):free$")
  if product then
    answer[#answer + 1] = product
    answer[#answer + 1] = math.max(0, tonumber(entries[i + 1]) or 0)
  end
end
return answer
