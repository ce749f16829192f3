--[[ Units free of items of a seller; an item below zero free counts as none.
  KEYS[1] meta   hash  whose keys these are
  KEYS[2] stock  hash  units by product and counter
  ARGV[1] msgpack: a list of products; empty = every item
  Returns {0, product, free, product, free, …} of the items there are | {1} recovering | {22} corrupt    Events: none ]]
-- include: guard
-- include: shop
local meta, stock, wanted = KEYS[1], KEYS[2], cmsgpack.unpack(ARGV[1])
if not is_registered(meta) then return {RECOVERING} end
if not has_types(stock, "hash") then return {CORRUPT} end
local answer = {OK}
local function tell(product, units)
  answer[#answer + 1] = product
  answer[#answer + 1] = math.max(0, tonumber(units) or 0)
end
for _, product in ipairs(wanted) do
  local units = redis.call("HGET", stock, product .. ":free")
  if units then tell(product, units) end
end
if #wanted > 0 then return answer end
local entries = redis.call("HGETALL", stock)
for i = 1, #entries, 2 do
  local product = string.match(entries[i], "^(.+):free$")
  if product then tell(product, entries[i + 1]) end
end
return answer
