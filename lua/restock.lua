--[[ Units of orders that were cancelled or sent back: sold -> free, and their buyers may buy as many again. Applied once
  per move.
  KEYS[1] meta    hash  whose keys these are
  KEYS[2] stock   hash  units by product and counter
  KEYS[3] moves   set   moves applied
  KEYS[4] buyers  hash  buyer -> packed buyer
  ARGV[1] msgpack: a list of {move, product, quantity, buyer}
  Returns for each {0, is_replay} | {1} recovering | {22} corrupt    Events: none ]]
-- include: guard
-- include: shop
local meta, stock, moves, buyers = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local items = cmsgpack.unpack(ARGV[1])
if not is_registered(meta) then return all_answer(items, RECOVERING) end
if not has_types(stock, "hash", moves, "set", buyers, "hash") then return all_answer(items, CORRUPT) end

local function decide(item)
  local move, product, quantity, name = item[1], item[2], item[3], item[4]
  if redis.call("SISMEMBER", moves, move) == 1 then return {OK, 1} end
  local buyer = read_packed(buyers, name)
  if buyer then
    buyer[BUYER_BOUGHT] = buyer[BUYER_BOUGHT] - quantity
    assert(buyer[BUYER_BOUGHT] >= 0, name)
  end
  return nil, {move = move, name = name, buyer = buyer, units = moved_units(stock, {{product, quantity}}, "sold", "free")}
end

local function write(plan)
  -- First, because it grows: with memory full Redis refuses it, and nothing has happened.
  redis.call("SADD", moves, plan.move)
  redis.call("HSET", stock, unpack(plan.units))
  if plan.buyer then write_buyer(buyers, plan.name, plan.buyer) end
  return {OK, 0}
end

return decide_then_write(items, decide, write)
