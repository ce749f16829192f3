--[[ Free the units of unpinned orders past their expiry, oldest first. Works with memory full.
  KEYS[1] meta      hash    units_back
  KEYS[2] stock     hash    units by product and counter
  KEYS[3] holds     zset    score = expires_at_ms, member = order
  KEYS[4] orders    hash    order -> packed order
  KEYS[5] buyers    hash    buyer -> packed buyer
  KEYS[6] turns     hash    turn -> packed turn
  KEYS[7] ended     zset    what may be forgotten
  KEYS[8] holdings  stream  consumed by the Flusher
  ARGV[1] count, at most so many
  Returns {0, expired, more} | {1} recovering | {22} corrupt    Events: lapsed ]]
-- include: guard
-- include: shop
local meta, stock, holds, orders = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local buyers, turns, ended, holdings = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
-- include: ending
local count = tonumber(ARGV[1])
if not is_registered(meta) then return {RECOVERING} end
local hold_ttl_ms = tonumber(redis.call("HGET", meta, "hold_ttl_ms") or nil)
if not hold_ttl_ms or not has_types(stock, "hash", holds, "zset", orders, "hash", buyers, "hash", turns, "hash", ended, "zset",
  holdings, "stream") then
  return {CORRUPT}
end
local now_ms = clock_ms()

local function decide(id)
  local order = read_packed(orders, id)
  -- Not one that holds: a member left behind would be met at the head of the list for ever.
  if not order or order[STATE] ~= "reserved" then return nil, {id = id} end
  return nil, plan_drop(plan_ending(id, order, "held", "free", -quantity_of(order[ITEMS]), 0), hold_ttl_ms, now_ms)
end

local expired = 0
local function write(plan)
  -- First, because it frees: Redis refuses no later write of a script that has begun to write.
  redis.call("ZREM", holds, plan.id)
  local order = plan.order
  if not order then return {OK} end
  order[REV] = order[REV] + 1
  local event = redis.call("XADD", holdings, "*",
    "verb", "lapsed", "order", plan.id, "rev", order[REV], "at", now_ms)
  write_ending(plan, "expired", event, now_ms)
  expired = expired + 1
  return {OK}
end

local due = redis.call("ZRANGEBYSCORE", holds, "-inf", now_ms, "LIMIT", 0, count)
decide_then_write(due, decide, write)
-- Without progress there is nothing to come back for at once: what is left cannot be read.
local more = expired > 0 and redis.call("ZCOUNT", holds, "-inf", now_ms) > 0
return {OK, expired, more and 1 or 0}
