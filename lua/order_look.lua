--[[ Read orders as they are.
  KEYS[1] meta    hash  whose keys these are
  KEYS[2] orders  hash  order -> packed order
  KEYS[3] docs    hash  order -> its document
  ARGV[1] msgpack: a list of orders
  Returns for each {0, order packed, document} | {7} unknown | {1} recovering | {22} corrupt    Events: none ]]
-- include: guard
-- include: shop
local meta, orders, docs = KEYS[1], KEYS[2], KEYS[3]
local items = cmsgpack.unpack(ARGV[1])
if not is_registered(meta) then return all_answer(items, RECOVERING) end
if not has_types(orders, "hash", docs, "hash") then return all_answer(items, CORRUPT) end

local answers = {}
for i, id in ipairs(items) do
  local order = redis.call("HGET", orders, id)
  answers[i] = order and {OK, order, redis.call("HGET", docs, id) or ""} or {UNKNOWN}
end
return answers
