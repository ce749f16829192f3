-- A claim that the record holds open and Redis has forgotten, the order with it or not: made again, to be ended as its
-- provider said. `remake` is {buyer, turn, items, key, digest, document}.

-- An order comes to rev 11 by itself (reserved, five tries of two changes each): the record, which takes the higher rev,
-- must take that of an order made again.
local REMADE_REV = 100
-- Where the units of an order are by its state, for a claim that Redis does not know.
local UNITS_BY_STATE = {reserved = "held", expired = "free", released = "free", payment_failed = "free"}

local function is_claim_forgotten(order, attempt)
  return not attempt and (not order or UNITS_BY_STATE[order[STATE]] ~= nil)
end

-- Answers the order, its attempt, the counter that its units are in, and whether the whole order had been forgotten.
local function remake_claim(order, attempt_id, remake, now_ms)
  local buyer, turn, things, key = unpack(remake, 1, 4)
  local is_new = not order
  local from = order and UNITS_BY_STATE[order[STATE]] or "free"
  order = order or {"reserved", 0, buyer, turn, things, now_ms, now_ms, buyer .. "|" .. key, "", {}}
  order[REV] = math.max(order[REV], REMADE_REV - 1)
  local attempt = {attempt_id, "", "", "", "open", "", "", 0}
  order[ATTEMPTS][#order[ATTEMPTS] + 1] = attempt
  return order, attempt, from, is_new
end

-- Beside an order made again: its document, and what its reservation is answered.
local function write_remade(plan, event)
  if not plan.remade then return end
  redis.call("HSET", docs, plan.id, plan.remade[6])
  write_packed(keys, plan.order[KEY], {plan.remade[5], OK, plan.id, plan.order[EXPIRES_AT], event})
end
