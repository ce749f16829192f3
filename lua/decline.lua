--[[ Give orders whose payment was declined back to their buyers: claimed -> held, with time to try again. After the fifth
  try, or where no time is left, the order fails instead. Safe to repeat. Works with memory full. With `remake` a claim
  that Redis has forgotten ends too: the order goes on where its hold is still there, else it fails, for its units may
  have been offered to others.
  KEYS[1]  meta    hash    hold_ttl_ms
  KEYS[2]  stock   hash    units by product and counter
  KEYS[3]  holds   zset    score = expires_at_ms, member = order
  KEYS[4]  orders  hash    order -> packed order
  KEYS[5]  docs    hash    order -> its document
  KEYS[6]  buyers  hash    buyer -> packed buyer
  KEYS[7]  turns   hash    turn -> packed turn
  KEYS[8]  keys    hash    buyer|Idempotency-Key -> packed answer
  KEYS[9]  ended   zset    what may be forgotten
  KEYS[10] money   stream  consumed by the Flusher
  ARGV[1] msgpack: a list of {order, attempt, reason, nil | {buyer, turn, items, key, digest, document}}
  Returns for each {0, event_id, rev, expires_at_ms, state, is_replay} | {7} unknown | {18} ended otherwise
    | {1} recovering | {22} corrupt    Events: declined, failed ]]
-- include: guard
-- include: shop
local meta, stock, holds, orders, docs = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local buyers, turns, keys, ended, money = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
-- include: ending
-- include: remaking
-- include: failing
-- Long enough to type another card; more tries than five are not a person correcting a mistake.
local LEFT_TO_PAY_MS, TRIES_MAX = 60000, 5
local items = cmsgpack.unpack(ARGV[1])
if not is_registered(meta) then return all_answer(items, RECOVERING) end
local hold_ttl_ms = tonumber(redis.call("HGET", meta, "hold_ttl_ms") or nil)
if not hold_ttl_ms or not has_types(stock, "hash", holds, "zset", orders, "hash", docs, "hash", buyers, "hash", turns, "hash",
  keys, "hash", ended, "zset", money, "stream") then
  return all_answer(items, CORRUPT)
end
local now_ms = clock_ms()

-- Never earlier than promised before, and never later than two lives of a hold.
local function expiry_after_decline(order)
  local cap_ms = order[RESERVED_AT] + 2 * hold_ttl_ms
  return math.max(order[EXPIRES_AT], math.min(now_ms + LEFT_TO_PAY_MS, cap_ms))
end

local function decide(item)
  local id, reason, remake = item[1], item[3], item[4]
  local order = read_packed(orders, id)
  local attempt = order and attempt_of(order, item[2])
  local from = "claimed"
  if remake and is_claim_forgotten(order, attempt) then
    if not order or order[STATE] ~= "reserved" then
      return nil, plan_remade_failing(id, order, item[2], reason, remake, now_ms)
    end
    order, attempt, from = remake_claim(order, item[2], remake, now_ms)
    order[STATE] = "confirming"
  end
  if not attempt then return {UNKNOWN} end
  local outcome = attempt[TRY_OUTCOME]
  if outcome == "declined" or outcome == "failed" then
    return {OK, attempt[TRY_END_EVENT], attempt[TRY_END_REV], order[EXPIRES_AT], order[STATE], 1}
  end
  if outcome ~= "open" or order[STATE] ~= "confirming" then return {STATE_CONFLICT} end
  local expires_at_ms = expiry_after_decline(order)
  if #order[ATTEMPTS] >= TRIES_MAX or expires_at_ms <= now_ms then
    return nil, plan_failing(id, order, attempt, reason, from)
  end
  return nil, {id = id, order = order, attempt = attempt, reason = reason, expires_at_ms = expires_at_ms,
    units = moved_units(stock, order[ITEMS], from, "held")}
end

local function write_declined(plan)
  local id, order, attempt = plan.id, plan.order, plan.attempt
  -- First, because it does nothing: Redis refuses no later write of a script that has begun to write.
  redis.call("ZREM", holds, id)
  order[REV] = order[REV] + 1
  local event = redis.call("XADD", money, "*", "verb", "declined", "order", id, "rev", order[REV], "at", now_ms,
    "attempt_id", attempt[TRY_ID], "reason", plan.reason, "expires", plan.expires_at_ms)
  attempt[TRY_OUTCOME], attempt[TRY_REASON] = "declined", plan.reason
  attempt[TRY_END_EVENT], attempt[TRY_END_REV] = event, order[REV]
  order[STATE], order[EVENT], order[EXPIRES_AT] = "reserved", event, plan.expires_at_ms
  if #plan.units > 0 then redis.call("HSET", stock, unpack(plan.units)) end
  redis.call("ZADD", holds, plan.expires_at_ms, id)
  write_packed(orders, id, order)
  return {OK, event, order[REV], order[EXPIRES_AT], "reserved", 0}
end

local function write(plan)
  if plan.expires_at_ms then return write_declined(plan) end
  return write_failing(plan, now_ms)
end

return decide_then_write(items, decide, write)
