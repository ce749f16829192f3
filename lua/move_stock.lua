--[[ Add units to an item, or take free ones away; decided once per move. Adding makes an item that is not there.
  A refusal is kept: of two who carry the same move one may find units that the other did not, and both must say the same.
  KEYS[1] meta   hash  whose keys these are
  KEYS[2] stock  hash  units by product and counter
  KEYS[3] moves  set   moves applied; `!` before those that were refused
  ARGV[1] move   ARGV[2] product   ARGV[3] quantity, below zero to take away
  Returns {0, is_replay} | {4} not so many are free | {7} no such item to take from | {1} recovering | {22} corrupt
  Events: none ]]
-- include: guard
-- include: shop
local meta, stock, moves = KEYS[1], KEYS[2], KEYS[3]
local move, product, quantity = ARGV[1], ARGV[2], tonumber(ARGV[3])
if not is_registered(meta) then return {RECOVERING} end
if not has_types(stock, "hash", moves, "set") then return {CORRUPT} end
if redis.call("SISMEMBER", moves, move) == 1 then return {OK, 1} end
if redis.call("SISMEMBER", moves, "!" .. move) == 1 then return {SOLD_OUT} end

local free, whole = redis.call("HGET", stock, product .. ":free"), redis.call("HGET", stock, product .. ":stock")
if free and not (tonumber(free) and tonumber(whole or nil)) then return {CORRUPT} end
if quantity < 0 and tonumber(free or 0) < -quantity then
  redis.call("SADD", moves, "!" .. move)
  return {free and SOLD_OUT or UNKNOWN}
end

-- First, because it grows: with memory full Redis refuses it, and nothing has happened.
redis.call("SADD", moves, move)
for _, counter in ipairs({"free", "held", "claimed", "sold", "withdrawn", "stock"}) do
  redis.call("HSETNX", stock, product .. ":" .. counter, 0)
end
redis.call("HSET", stock, product .. ":free", tonumber(free or 0) + quantity,
  product .. ":stock", tonumber(whole or 0) + quantity)
return {OK, 0}
