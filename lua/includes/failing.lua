-- A claim that ends without a sale: its units free again (from where they are), the order over, one `failed` event.
local function plan_failing(id, order, attempt, reason, from)
  local plan = plan_ending(id, order, from, "free", from == "free" and 0 or -quantity_of(order[ITEMS]), 0)
  plan.attempt, plan.reason = attempt, reason
  return plan
end

-- The same for a claim that Redis has forgotten.
local function plan_remade_failing(id, order, attempt_id, reason, remake, now_ms)
  local made, attempt, from, is_new = remake_claim(order, attempt_id, remake, now_ms)
  local plan = plan_failing(id, made, attempt, reason, from)
  if is_new then plan.remade = remake end
  return plan
end

local function write_failing(plan, now_ms)
  local order, attempt = plan.order, plan.attempt
  -- First, because it frees (or does nothing): Redis refuses no later write of a script that has begun to write.
  redis.call("ZREM", holds, plan.id)
  order[REV] = order[REV] + 1
  local event = redis.call("XADD", money, "*", "verb", "failed", "order", plan.id, "rev", order[REV], "at", now_ms,
    "attempt_id", attempt[TRY_ID], "reason", plan.reason)
  attempt[TRY_OUTCOME], attempt[TRY_REASON] = "failed", plan.reason
  attempt[TRY_END_EVENT], attempt[TRY_END_REV] = event, order[REV]
  write_remade(plan, event)
  write_ending(plan, "payment_failed", event, now_ms)
  return {OK, event, order[REV], order[EXPIRES_AT], "payment_failed", 0}
end
