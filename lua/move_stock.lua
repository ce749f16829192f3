--[[ Add units to an item, or take free ones away; decided once per move. Adding makes an item that is not there.
  A refusal is kept: of two who carry the same move one may find units that the other did not, and both must say the same.
  Units that leave may be those of an order that has just ended: Postgres may take them off only when it knows of that
  end, else it refuses a claim for what is not there by its own count. So the answer says whether the record has all
  that came before the move; until it has, the move is asked for again.
  KEYS[1] meta   hash  money_upto; `left:<move>` = when its units left, until the record has all that came before
  KEYS[2] stock  hash  units by product and counter
  KEYS[3] moves  set   moves applied; `!` before those that were refused
  KEYS[4] money  stream  what the record has to know
  ARGV[1] move   ARGV[2] product   ARGV[3] quantity, below zero to take away
  Returns {0, is_replay, is_recorded} | {4} not so many are free | {7} no such item to take from | {1} recovering | {22} corrupt
  Events: none ]]
-- include: guard
-- include: shop
local meta, stock, moves, money = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local move, product, quantity = ARGV[1], ARGV[2], tonumber(ARGV[3])
if not is_registered(meta) then return {RECOVERING} end
if not has_types(stock, "hash", moves, "set", money, "stream") then return {CORRUPT} end

-- Whether the record has all of the money's events up to a moment.
local function is_recorded(at_ms)
  local upto = redis.call("HGET", meta, "money_upto") or "0-0"
  local oldest = redis.call("XRANGE", money, "(" .. upto, "+", "COUNT", 1)[1]
  return not oldest or tonumber(string.match(oldest[1], "^%d+")) > at_ms
end

if redis.call("SISMEMBER", moves, move) == 1 then
  local left_ms = tonumber(redis.call("HGET", meta, "left:" .. move) or nil)
  if left_ms and not is_recorded(left_ms) then return {OK, 1, 0} end
  if left_ms then redis.call("HDEL", meta, "left:" .. move) end
  return {OK, 1, 1}
end
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
local now_ms = clock_ms()
if quantity > 0 or is_recorded(now_ms) then return {OK, 0, 1} end
redis.call("HSET", meta, "left:" .. move, now_ms)
return {OK, 0, 0}
