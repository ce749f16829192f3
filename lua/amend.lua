--[[ Change what an order that is not being paid holds, or its address alone: all of it or nothing, within its own time. The
  caller has made the new document from the one it saw, and `rev` says which that was.
  KEYS[1]  meta      hash    opens_at_ms, closes_at_ms, limit_per_buyer, pass_required, record_behind_ms
  KEYS[2]  stock     hash    units by product and counter
  KEYS[3]  orders    hash    order -> packed order
  KEYS[4]  docs      hash    order -> its document
  KEYS[5]  buyers    hash    buyer -> packed buyer
  KEYS[6]  turns     hash    turn -> packed turn
  KEYS[7]  money     stream  consumed by the Flusher: claims and what they are for are recorded in one order
  KEYS[8]  holdings  stream  consumed by the Flusher
  ARGV[1] msgpack: a list of {order, rev, pass_exp_ms, {{product, quantity}, …}, document}
  Returns for each {0, event_id, rev, expires_at_ms, state, is_replay} | {2} not open | {4} sold out | {7} no such order
    or product | {9} changed since | {10} pass expired | {11} revoked | {12} spent | {13} limit reached | {16} record
    behind | {17} expired | {18} being paid, or ended | {1} recovering | {22} corrupt    Events: amended ]]
-- include: guard
-- include: shop
-- include: behind
local meta, stock, orders, docs = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local buyers, turns, money, holdings = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local items = cmsgpack.unpack(ARGV[1])
if not is_registered(meta) then return all_answer(items, RECOVERING) end
if not has_types(stock, "hash", orders, "hash", docs, "hash", buyers, "hash", turns, "hash", money, "stream",
  holdings, "stream") then
  return all_answer(items, CORRUPT)
end
local now_ms = clock_ms()
local terms = redis.call("HMGET", meta, "opens_at_ms", "closes_at_ms", "limit_per_buyer", "pass_required",
  "record_behind_ms", "money_upto", "holds_upto")
local opens_at_ms, closes_at_ms = tonumber(terms[1] or nil), tonumber(terms[2] or nil)
local limit, behind_ms = tonumber(terms[3] or nil), tonumber(terms[5] or nil)
if not (opens_at_ms and closes_at_ms and limit and behind_ms) then return all_answer(items, CORRUPT) end
local pass_required = terms[4] ~= "0"
local is_open = opens_at_ms <= now_ms and now_ms < closes_at_ms
local record_behind = is_behind(money, terms[6], now_ms, behind_ms) or is_behind(holdings, terms[7], now_ms, behind_ms)

local function refusal_by_pass(item, order)
  if item[3] <= now_ms then return PASS_EXPIRED end
  local turn = read_packed(turns, order[TURN]) or {"open", ""}
  if turn[TURN_STATE] == "revoked" then return PASS_REVOKED end
  if turn[TURN_STATE] ~= "open" then return PASS_SPENT end
end

local function refusal_by_state(item, order)
  if order[STATE] == "expired" then return ORDER_EXPIRED end
  if order[STATE] ~= "reserved" then return STATE_CONFLICT end
  -- Its units may be free in a moment: the reaper is at most two seconds late.
  if order[EXPIRES_AT] <= now_ms then return ORDER_EXPIRED end
  if order[REV] ~= item[2] then return STALE end
end

-- By product: how many more (or fewer) units the order holds afterwards.
local function differences(before, after)
  local units = {}
  for _, thing in ipairs(after) do units[thing[1]] = thing[2] end
  for _, thing in ipairs(before) do units[thing[1]] = (units[thing[1]] or 0) - thing[2] end
  for product, more in pairs(units) do
    if more == 0 then units[product] = nil end
  end
  return units
end

-- Counters as HSET takes them, or a refusal.
local function plan_units(units)
  local fields = {}
  for product, more in pairs(units) do
    local free = redis.call("HGET", stock, product .. ":free")
    if not free then return nil, UNKNOWN end
    if more > 0 and read_units(stock, product .. ":free") < more then return nil, SOLD_OUT end
    local held = read_units(stock, product .. ":held") + more
    assert(held >= 0, product)
    fields[#fields + 1], fields[#fields + 2] = product .. ":free", read_units(stock, product .. ":free") - more
    fields[#fields + 1], fields[#fields + 2] = product .. ":held", held
  end
  return fields
end

local function decide(item)
  local id = item[1]
  local order = read_packed(orders, id)
  if not order then return {UNKNOWN} end
  local refusal = refusal_by_state(item, order) or (pass_required and refusal_by_pass(item, order))
  if refusal then return {refusal} end
  local units = differences(order[ITEMS], item[4])
  -- An address may be changed after the sale has closed; what is held may not.
  if next(units) and not is_open then return {NOT_OPEN} end
  if record_behind then return {RECORD_BEHIND} end
  local buyer = read_packed(buyers, order[BUYER])
  assert(buyer and buyer[BUYER_OPEN] == id, id)
  buyer[BUYER_HELD] = buyer[BUYER_HELD] - quantity_of(order[ITEMS]) + quantity_of(item[4])
  if buyer[BUYER_HELD] + buyer[BUYER_BOUGHT] > limit then return {LIMIT_REACHED} end
  local fields, by_stock = plan_units(units)
  if not fields then return {by_stock} end
  return nil, {id = id, order = order, item = item, buyer = buyer, units = fields}
end

local function write(plan)
  local id, order, item = plan.id, plan.order, plan.item
  order[REV] = order[REV] + 1
  -- First, because it grows: with memory full Redis refuses it, and nothing has happened.
  local event = redis.call("XADD", money, "*", "verb", "amended", "order", id, "rev", order[REV], "at", now_ms,
    "expires", order[EXPIRES_AT], "doc", item[5])
  if #plan.units > 0 then redis.call("HSET", stock, unpack(plan.units)) end
  order[ITEMS], order[EVENT] = item[4], event
  redis.call("HSET", docs, id, item[5])
  write_packed(buyers, order[BUYER], plan.buyer)
  write_packed(orders, id, order)
  return {OK, event, order[REV], order[EXPIRES_AT], "reserved", 0}
end

return decide_then_write(items, decide, write)
