--[[ Undo claims that the record refused, and sales of claims that it never had. Refused for stock: withdrawn, the record
  has no unit for them and offering them again would refuse the next buyer; for any other reason: free. The order is
  released, without an event: the record wrote the refusal. Safe to repeat. Works with memory full.
  KEYS[1] meta    hash    units_back
  KEYS[2] stock   hash    units by product and counter
  KEYS[3] holds   zset    score = expires_at_ms, member = order
  KEYS[4] orders  hash    order -> packed order
  KEYS[5] buyers  hash    buyer -> packed buyer
  KEYS[6] turns   hash    turn -> packed turn
  KEYS[7] ended   zset    what may be forgotten
  ARGV[1] msgpack: a list of {order, attempt, reason, the event that was refused}
  Returns for each {0, "", rev, expires_at_ms, state, is_replay} | {7} no such claim here | {18} ended otherwise
    | {1} recovering | {22} corrupt    Events: none ]]
-- include: guard
-- include: shop
local meta, stock, holds, orders = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local buyers, turns, ended = KEYS[5], KEYS[6], KEYS[7]
-- include: ending
local items = cmsgpack.unpack(ARGV[1])
if not is_registered(meta) then return all_answer(items, RECOVERING) end
if not has_types(stock, "hash", holds, "zset", orders, "hash", buyers, "hash", turns, "hash", ended, "zset") then
  return all_answer(items, CORRUPT)
end
local now_ms = clock_ms()

local function is_open(order, attempt)
  return attempt[TRY_OUTCOME] == "open" and order[STATE] == "confirming"
end

-- Counted as sold here, by the very event that the record refused.
local function is_unsold(order, attempt, event)
  return attempt[TRY_OUTCOME] == "sold" and attempt[TRY_END_EVENT] == event and order[STATE] == "confirmed"
end

local function decide(item)
  local id, reason = item[1], item[3]
  local order = read_packed(orders, id)
  local attempt = order and attempt_of(order, item[2])
  if not attempt then return {UNKNOWN} end
  if attempt[TRY_OUTCOME] == "refused" then
    return {OK, "", order[REV], order[EXPIRES_AT], order[STATE], 1}
  end
  local quantity, plan = quantity_of(order[ITEMS])
  if is_open(order, attempt) then
    plan = plan_ending(id, order, "claimed", reason == "stock" and "withdrawn" or "free", -quantity, 0)
  elseif is_unsold(order, attempt, item[4]) then
    plan = plan_ending(id, order, "sold", "free", 0, -quantity)
  else
    return {STATE_CONFLICT}
  end
  plan.attempt, plan.reason = attempt, reason
  return nil, plan
end

local function write(plan)
  local order, attempt = plan.order, plan.attempt
  -- First, because it does nothing: Redis refuses no later write of a script that has begun to write.
  redis.call("ZREM", holds, plan.id)
  attempt[TRY_OUTCOME], attempt[TRY_REASON] = "refused", plan.reason
  write_ending(plan, "released", order[EVENT], now_ms)
  return {OK, "", order[REV], order[EXPIRES_AT], "released", 0}
end

return decide_then_write(items, decide, write)
