--[[ Give reservations up: units free again, turn and pass stay. Safe to repeat. Works with memory full.
  KEYS[1] meta      hash    hold_ttl_ms, units_back
  KEYS[2] stock     hash    units by product and counter
  KEYS[3] holds     zset    score = expires_at_ms, member = order
  KEYS[4] orders    hash    order -> packed order
  KEYS[5] buyers    hash    buyer -> packed buyer
  KEYS[6] turns     hash    turn -> packed turn
  KEYS[7] ended     zset    what may be forgotten
  KEYS[8] holdings  stream  consumed by the Flusher
  ARGV[1] msgpack: a list of {order, buyer}
  Returns for each {0, event_id, rev, expires_at_ms, state, is_replay} | {7} unknown | {20} another's | {17} expired
    | {18} being paid, or ended otherwise | {1} recovering | {22} corrupt    Events: released ]]
-- include: guard
-- include: shop
local meta, stock, holds, orders = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local buyers, turns, ended, holdings = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
-- include: ending
local items = cmsgpack.unpack(ARGV[1])
if not is_registered(meta) then return all_answer(items, RECOVERING) end
local hold_ttl_ms = tonumber(redis.call("HGET", meta, "hold_ttl_ms") or nil)
if not hold_ttl_ms or not has_types(stock, "hash", holds, "zset", orders, "hash", buyers, "hash", turns, "hash", ended, "zset",
  holdings, "stream") then
  return all_answer(items, CORRUPT)
end
local now_ms = clock_ms()

local function decide(item)
  local id, buyer = item[1], item[2]
  local order = read_packed(orders, id)
  if not order then return {UNKNOWN} end
  if order[BUYER] ~= buyer then return {NOT_YOURS} end
  if order[STATE] == "released" then
    return {OK, order[EVENT], order[REV], order[EXPIRES_AT], order[STATE], 1}
  end
  if order[STATE] == "expired" then return {ORDER_EXPIRED} end
  if order[STATE] ~= "reserved" then return {STATE_CONFLICT} end
  return nil, plan_drop(plan_ending(id, order, "held", "free", -quantity_of(order[ITEMS]), 0), hold_ttl_ms, now_ms)
end

local function write(plan)
  local order = plan.order
  -- First, because it frees: Redis refuses no later write of a script that has begun to write.
  redis.call("ZREM", holds, plan.id)
  order[REV] = order[REV] + 1
  local event = redis.call("XADD", holdings, "*",
    "verb", "released", "order", plan.id, "rev", order[REV], "at", now_ms)
  write_ending(plan, "released", event, now_ms)
  return {OK, event, order[REV], order[EXPIRES_AT], "released", 0}
end

return decide_then_write(items, decide, write)
