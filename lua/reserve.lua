--[[ Hold every unit of each order, or none of it. Safe to repeat: a buyer's key answers what it answered, refusals too.
  The whole batch is decided first, reading many fields in one call, then written in a few calls that cannot fail:
  reserving is what a sale does most, and a call for each field of each order costs three times as much.
  KEYS[1]  meta      hash    opens_at_ms, closes_at_ms, limit_per_buyer, hold_ttl_ms, pass_required, record_behind_ms
  KEYS[2]  stock     hash    units by product and counter
  KEYS[3]  holds     zset    score = expires_at_ms, member = order
  KEYS[4]  orders    hash    order -> packed order
  KEYS[5]  docs      hash    order -> its document
  KEYS[6]  buyers    hash    buyer -> packed buyer
  KEYS[7]  turns     hash    turn -> packed turn
  KEYS[8]  keys      hash    buyer|Idempotency-Key -> packed answer, #buyer -> refusals among them
  KEYS[9]  ended     zset    what may be forgotten
  KEYS[10] money     stream  consumed by the Flusher
  KEYS[11] holdings  stream  consumed by the Flusher
  ARGV[1] msgpack: a list of {order, buyer, turn, pass_exp_ms, {{product, quantity}, …}, key, digest, document,
    what its caller refuses it with (0 nothing): then only the answer is kept, under its key}
  Returns for each {0, order, rev, expires_at_ms, document (of a replay), is_replay, event_id}
    | {2} not open | {4} sold out | {7} no such product | {10} pass expired | {11} revoked | {12} spent
    | {13} limit reached | {14} reservation open | {25} price changed | {26} not sold now | {27} the cart is empty,
      each with is_replay
    | {28, 0, wait_ms} held and did not buy too often
    | {15} key used with another body | {16} record behind | {1} recovering | {22} corrupt    Events: reserved ]]
-- include: guard
-- include: shop
-- include: behind
local meta, stock, holds, orders, docs, buyers = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local turns, keys, ended, money, holdings = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local items = cmsgpack.unpack(ARGV[1])
if not is_registered(meta) then return all_answer(items, RECOVERING) end
if not has_types(stock, "hash", holds, "zset", orders, "hash", docs, "hash", buyers, "hash", turns, "hash",
  keys, "hash", ended, "zset", money, "stream", holdings, "stream") then
  return all_answer(items, CORRUPT)
end
local now_ms = clock_ms()
local terms = redis.call("HMGET", meta, "opens_at_ms", "closes_at_ms", "limit_per_buyer", "hold_ttl_ms",
  "pass_required", "record_behind_ms", "money_upto", "holds_upto")
local opens_at_ms, closes_at_ms = tonumber(terms[1] or nil), tonumber(terms[2] or nil)
local limit, hold_ttl_ms, behind_ms = tonumber(terms[3] or nil), tonumber(terms[4] or nil), tonumber(terms[6] or nil)
if not (opens_at_ms and closes_at_ms and limit and hold_ttl_ms and behind_ms) then
  return all_answer(items, CORRUPT)
end
local pass_required = terms[5] ~= "0"
local is_open = opens_at_ms <= now_ms and now_ms < closes_at_ms
local expires_at_ms = now_ms + hold_ttl_ms
-- As text once, not in every event.
local at, expires = string.format("%.0f", now_ms), string.format("%.0f", expires_at_ms)
-- Lua's unpack carries at most 8,000 values.
local CHUNK = 4000
-- Refusals remembered for one buyer: nobody is refused that often by mistake, and this memory is everybody's.
local REFUSALS_MAX = 100

local record_behind = is_behind(money, terms[7], now_ms, behind_ms) or is_behind(holdings, terms[8], now_ms, behind_ms)

-- Values of many fields of a hash, by field; false where there is none.
local function read_many(key, wanted)
  local fields, values = {}, {}
  for field in pairs(wanted) do fields[#fields + 1] = field end
  for first = 1, #fields, CHUNK do
    local last = math.min(first + CHUNK - 1, #fields)
    local found = redis.call("HMGET", key, unpack(fields, first, last))
    for i = first, last do values[fields[i]] = found[i - first + 1] end
  end
  return values
end

local wanted = {orders = {}, keys = {}, buyers = {}, turns = {}, units = {}}
for _, item in ipairs(items) do
  wanted.orders[item[1]] = true
  wanted.buyers[item[2]] = true
  wanted.turns[item[3]] = true
  wanted.keys[item[2] .. "|" .. item[6]] = true
  wanted.keys["#" .. item[2]] = true
  for _, thing in ipairs(item[5]) do
    wanted.units[thing[1] .. ":free"] = true
    wanted.units[thing[1] .. ":held"] = true
  end
end
local seen = {
  orders = read_many(orders, wanted.orders), keys = read_many(keys, wanted.keys),
  buyers = read_many(buyers, wanted.buyers), turns = read_many(turns, wanted.turns),
  units = read_many(stock, wanted.units),
}

-- What this batch has decided so far is seen by its later items: a value is unpacked once and replaced in `seen`.
local function value_of(kind, field, default)
  local value = seen[kind][field]
  if type(value) == "string" then
    value = cmsgpack.unpack(value)
    assert(type(value) == "table")
  end
  return value or default
end

local function units_of(field)
  local value = seen.units[field]
  local units = tonumber(value or nil)
  assert(units or not value, field)
  return units
end

local function refusal_by_pass(item, turn)
  if item[4] <= now_ms then return PASS_EXPIRED end
  if turn[TURN_STATE] == "revoked" then return PASS_REVOKED end
  if turn[TURN_STATE] ~= "open" then return PASS_SPENT end
  if turn[TURN_OPEN] ~= "" then return RESERVATION_OPEN end
end

-- Whoever holds and does not buy keeps units from those who would: after two lives of a hold they wait as long as one
-- before they may hold again, and twice as long after each further one.
local DROPPED_FREE, WAIT_DOUBLED_MAX = 200, 3
local function wait_ms_of(buyer)
  local dropped = buyer[BUYER_DROPPED] or 0
  -- A time that is yet to come is of a clock that went back.
  if dropped < DROPPED_FREE or buyer[BUYER_DROPPED_AT] > now_ms then return 0 end
  local doubled = math.min(math.floor((dropped - DROPPED_FREE) / 100), WAIT_DOUBLED_MAX)
  return buyer[BUYER_DROPPED_AT] + hold_ttl_ms * 2 ^ doubled - now_ms
end

local function refusal_by_stock(things)
  for _, thing in ipairs(things) do
    local free = units_of(thing[1] .. ":free")
    if not free or not units_of(thing[1] .. ":held") then return UNKNOWN end
    if free < thing[2] then return SOLD_OUT end
  end
end

local function refusal_of(item, buyer, turn)
  if not is_open then return NOT_OPEN end
  local by_pass = pass_required and refusal_by_pass(item, turn)
  if by_pass then return by_pass end
  if buyer[BUYER_OPEN] ~= "" then return RESERVATION_OPEN end
  if wait_ms_of(buyer) > 0 then return TOO_MANY_DROPS end
  if buyer[BUYER_HELD] + buyer[BUYER_BOUGHT] + quantity_of(item[5]) > limit then return LIMIT_REACHED end
  return refusal_by_stock(item[5])
end

local changed_units, changed_buyers, changed_turns, changed_refusals = {}, {}, {}, {}

local function hold(item, buyer, turn)
  for _, thing in ipairs(item[5]) do
    local free, held = thing[1] .. ":free", thing[1] .. ":held"
    seen.units[free], seen.units[held] = units_of(free) - thing[2], units_of(held) + thing[2]
    changed_units[free], changed_units[held] = true, true
  end
  buyer[BUYER_HELD], buyer[BUYER_OPEN] = buyer[BUYER_HELD] + quantity_of(item[5]), item[1]
  seen.buyers[item[2]], changed_buyers[item[2]] = buyer, true
  if item[3] ~= "" then
    turn[TURN_OPEN] = item[1]
    seen.turns[item[3]], changed_turns[item[3]] = turn, true
  end
end

-- Counts one more refusal of a buyer; false where no more are remembered.
local function may_remember(buyer)
  local field = "#" .. buyer
  local refusals = tonumber(seen.keys[field] or nil) or 0
  if refusals >= REFUSALS_MAX then return false end
  seen.keys[field], changed_refusals[field] = refusals + 1, true
  return true
end

-- What a key answers, packed as {digest, reply, order, expires_at_ms, event_id}; of a refusal only the first two.
local ENTRY_DIGEST, ENTRY_REPLY, ENTRY_ORDER, ENTRY_EXPIRES, ENTRY_EVENT = 1, 2, 3, 4, 5

-- Answers {refusal} | {entry, is_replay}; a new entry is noted with its item for writing.
local fresh = {}
local function decide(item)
  local field = item[2] .. "|" .. item[6]
  local known = value_of("keys", field)
  if known then
    if known[ENTRY_DIGEST] ~= item[7] then return {refusal = KEY_REUSED} end
    return {entry = known, is_replay = 1}
  end
  -- An order is made once, under one key.
  if seen.orders[item[1]] then return {refusal = KEY_REUSED} end
  if record_behind then return {refusal = RECORD_BEHIND} end
  local buyer, turn = value_of("buyers", item[2], {0, 0, ""}), value_of("turns", item[3], {"open", ""})
  local refusal = item[9] ~= 0 and item[9] or refusal_of(item, buyer, turn)
  -- Over by itself: its key may still answer otherwise.
  if refusal == TOO_MANY_DROPS then return {refusal = refusal, wait_ms = wait_ms_of(buyer)} end
  if refusal and not may_remember(item[2]) then return {refusal = refusal} end
  local entry = {item[7], refusal or OK}
  if not refusal then
    hold(item, buyer, turn)
    entry[ENTRY_ORDER], entry[ENTRY_EXPIRES] = item[1], expires_at_ms
    seen.orders[item[1]] = true
  end
  seen.keys[field] = entry
  fresh[#fresh + 1] = {field = field, entry = entry, item = item}
  return {entry = entry, is_replay = 0}
end

local function write_many(command, key, values)
  for first = 1, #values, CHUNK do
    redis.call(command, key, unpack(values, first, math.min(first + CHUNK - 1, #values)))
  end
end

local function packed_pairs(kind, changed)
  local values = {}
  for field in pairs(changed) do
    values[#values + 1] = field
    values[#values + 1] = kind == "units" and seen.units[field] or cmsgpack.pack(seen[kind][field])
  end
  return values
end

-- The events first: they grow, so with memory full Redis refuses the first of them and nothing has happened. Where all
-- were refused, the keys are first, which grow as well.
local function write_fresh()
  local order_pairs, doc_pairs, hold_pairs, key_pairs, ended_pairs = {}, {}, {}, {}, {}
  for _, new in ipairs(fresh) do
    local item, entry = new.item, new.entry
    if entry[ENTRY_REPLY] == OK then
      local id, doc = item[1], item[8]
      local event = redis.call("XADD", holdings, "*", "verb", "reserved", "order", id, "rev", "1", "at", at,
        "expires", expires, "doc", doc)
      entry[ENTRY_EVENT] = event
      local order = {"reserved", 1, item[2], item[3], item[5], now_ms, expires_at_ms, new.field, event, {}}
      order_pairs[#order_pairs + 1], order_pairs[#order_pairs + 2] = id, cmsgpack.pack(order)
      doc_pairs[#doc_pairs + 1], doc_pairs[#doc_pairs + 2] = id, doc
      hold_pairs[#hold_pairs + 1], hold_pairs[#hold_pairs + 2] = expires_at_ms, id
    else
      ended_pairs[#ended_pairs + 1], ended_pairs[#ended_pairs + 2] = now_ms, "k|" .. new.field
    end
    key_pairs[#key_pairs + 1], key_pairs[#key_pairs + 2] = new.field, cmsgpack.pack(entry)
  end
  for field in pairs(changed_refusals) do
    key_pairs[#key_pairs + 1], key_pairs[#key_pairs + 2] = field, seen.keys[field]
  end
  write_many("HSET", keys, key_pairs)
  write_many("HSET", stock, packed_pairs("units", changed_units))
  write_many("HSET", orders, order_pairs)
  write_many("HSET", docs, doc_pairs)
  write_many("HSET", buyers, packed_pairs("buyers", changed_buyers))
  write_many("HSET", turns, packed_pairs("turns", changed_turns))
  write_many("ZADD", holds, hold_pairs)
  write_many("ZADD", ended, ended_pairs)
end

local function answer_of(decision)
  if decision.refusal then return {decision.refusal, 0, decision.wait_ms} end
  local entry, is_replay = decision.entry, decision.is_replay
  if entry[ENTRY_REPLY] ~= OK then return {entry[ENTRY_REPLY], is_replay} end
  local doc = is_replay == 1 and redis.call("HGET", docs, entry[ENTRY_ORDER]) or ""
  return {OK, entry[ENTRY_ORDER], 1, entry[ENTRY_EXPIRES], doc, is_replay, entry[ENTRY_EVENT]}
end

local decisions, answers = {}, {}
for i, item in ipairs(items) do
  local is_readable, decision = pcall(decide, item)
  decisions[i] = is_readable and decision or {refusal = CORRUPT}
end
write_fresh()
for i, decision in ipairs(decisions) do answers[i] = answer_of(decision) end
return answers
