--[[ Paid claims become sales: claimed -> sold, the turn spent. Safe to repeat. Works with memory full. With `remake` an
  order or a claim that Redis has forgotten is made again, even below zero free: a recorded claim outranks Redis.
  KEYS[1]  meta      hash    units_kept
  KEYS[2]  stock     hash    units by product and counter
  KEYS[3]  holds     zset    score = expires_at_ms, member = order
  KEYS[4]  orders    hash    order -> packed order
  KEYS[5]  docs      hash    order -> its document
  KEYS[6]  buyers    hash    buyer -> packed buyer
  KEYS[7]  turns     hash    turn -> packed turn
  KEYS[8]  keys      hash    buyer|Idempotency-Key -> packed answer
  KEYS[9]  ended     zset    what may be forgotten
  KEYS[10] money     stream  consumed by the Flusher
  KEYS[11] closings  stream  consumed by the line's Admitter
  ARGV[1] msgpack: a list of {order, attempt, nil | {buyer, turn, items, key, digest, document}}
  Returns for each {0, event_id, rev, expires_at_ms, state, is_replay} | {7} unknown | {18} the claim ended otherwise
    | {1} recovering | {22} corrupt    Events: confirmed, turn_closed ]]
-- include: guard
-- include: shop
local meta, stock, holds, orders, docs = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local buyers, turns, keys, ended, money, closings = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
-- include: ending
-- include: remaking
local items = cmsgpack.unpack(ARGV[1])
if not is_registered(meta) then return all_answer(items, RECOVERING) end
if not has_types(stock, "hash", holds, "zset", orders, "hash", docs, "hash", buyers, "hash", turns, "hash",
  keys, "hash", ended, "zset", money, "stream", closings, "stream") then
  return all_answer(items, CORRUPT)
end
local now_ms = clock_ms()

local function plan_sale(id, order, attempt, from)
  local quantity = quantity_of(order[ITEMS])
  local plan = plan_ending(id, order, from, "sold", from == "free" and 0 or -quantity, quantity)
  plan.attempt = attempt
  -- Closed before (its holder left): then its `turn_closed` was written.
  plan.closes_turn = plan.turn ~= nil and plan.turn[TURN_STATE] == "open"
  if plan.turn then plan.turn[TURN_STATE] = "spent" end
  return plan
end

local function plan_remade_sale(id, order, attempt_id, remake)
  local made, attempt, from, is_new = remake_claim(order, attempt_id, remake, now_ms)
  local plan = plan_sale(id, made, attempt, from)
  if is_new then plan.remade = remake end
  return plan
end

local function decide(item)
  local id, attempt_id, remake = item[1], item[2], item[3]
  local order = read_packed(orders, id)
  local attempt = order and attempt_of(order, attempt_id)
  if attempt and attempt[TRY_OUTCOME] == "sold" then
    return {OK, attempt[TRY_END_EVENT], attempt[TRY_END_REV], order[EXPIRES_AT], order[STATE], 1}
  end
  if attempt and attempt[TRY_OUTCOME] == "open" and order[STATE] == "confirming" then
    return nil, plan_sale(id, order, attempt, "claimed")
  end
  if not is_claim_forgotten(order, attempt) then return {STATE_CONFLICT} end
  if remake then return nil, plan_remade_sale(id, order, attempt_id, remake) end
  return {order and STATE_CONFLICT or UNKNOWN}
end

local function write(plan)
  local id, order, attempt = plan.id, plan.order, plan.attempt
  -- First, because it frees (or does nothing): Redis refuses no later write of a script that has begun to write.
  redis.call("ZREM", holds, id)
  order[REV] = order[REV] + 1
  local event = redis.call("XADD", money, "*", "verb", "confirmed", "order", id, "rev", order[REV], "at", now_ms,
    "attempt_id", attempt[TRY_ID])
  attempt[TRY_OUTCOME], attempt[TRY_END_EVENT], attempt[TRY_END_REV] = "sold", event, order[REV]
  write_remade(plan, event)
  write_ending(plan, "confirmed", event, now_ms)
  if plan.turn then redis.call("ZADD", ended, now_ms, "t|" .. order[TURN]) end
  if plan.closes_turn then
    redis.call("XADD", closings, "*", "turn", order[TURN], "why", "completed", "at", now_ms)
  end
  return {OK, event, order[REV], order[EXPIRES_AT], "confirmed", 0}
end

return decide_then_write(items, decide, write)
