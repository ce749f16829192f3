-- How an order stops holding units: counters, its buyer's and its turn's open marks, the list of what may be forgotten;
-- and how many units were kept or came back, since these keys were made, for whoever asks how likely held ones come back.

-- Read what ending `order` changes. `from`, `to`: counters; `held`, `bought`: what its buyer's figures change by.
local function plan_ending(id, order, from, to, held, bought)
  local buyer = read_packed(buyers, order[BUYER]) or {0, 0, ""}
  buyer[BUYER_HELD] = buyer[BUYER_HELD] + held
  buyer[BUYER_BOUGHT] = buyer[BUYER_BOUGHT] + bought
  -- Whoever buys has not come to keep things from others.
  if bought > 0 then buyer[BUYER_DROPPED], buyer[BUYER_DROPPED_AT] = nil, nil end
  assert(buyer[BUYER_HELD] >= 0)
  if buyer[BUYER_OPEN] == id then buyer[BUYER_OPEN] = "" end
  local turn = order[TURN] ~= "" and (read_packed(turns, order[TURN]) or {"open", ""}) or nil
  if turn and turn[TURN_OPEN] == id then turn[TURN_OPEN] = "" end
  local outcome = to == "sold" and "units_kept" or from ~= "sold" and to == "free" and "units_back" or nil
  return {id = id, order = order, outcome = outcome, units = moved_units(stock, order[ITEMS], from, to), buyer = buyer, turn = turn}
end

-- Note in a planned ending that units were kept from others for so long and not bought; a moment counts for nothing.
local function plan_drop(plan, hold_ttl_ms, now_ms)
  local hundredths = math.min(100, math.floor(100 * (now_ms - plan.order[RESERVED_AT]) / hold_ttl_ms))
  if hundredths > 0 then
    plan.buyer[BUYER_DROPPED] = (plan.buyer[BUYER_DROPPED] or 0) + hundredths
    plan.buyer[BUYER_DROPPED_AT] = now_ms
  end
  return plan
end

-- A turn that is open and has no order says nothing that its absence does not.
local function write_turn(name, turn)
  if turn[TURN_STATE] == "open" and turn[TURN_OPEN] == "" then
    redis.call("HDEL", turns, name)
  else
    write_packed(turns, name, turn)
  end
end

-- Write a planned ending, after the caller's first write and event.
local function write_ending(plan, state, event, now_ms)
  local order = plan.order
  order[STATE], order[EVENT] = state, event
  if #plan.units > 0 then redis.call("HSET", stock, unpack(plan.units)) end
  if plan.outcome then redis.call("HINCRBY", meta, plan.outcome, quantity_of(order[ITEMS])) end
  write_buyer(buyers, order[BUYER], plan.buyer)
  if plan.buyer[BUYER_DROPPED] then redis.call("ZADD", ended, now_ms, "b|" .. order[BUYER]) end
  if plan.turn then write_turn(order[TURN], plan.turn) end
  redis.call("ZADD", ended, now_ms, plan.id)
  write_packed(orders, plan.id, order)
end
