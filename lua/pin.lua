--[[ Claim the units of reserved orders for one attempt to pay: off the reaper's list, held -> claimed. A key that tried
  before answers that try, an order that is being or has been paid its newest, whatever the key.
  KEYS[1] meta    hash    whose keys these are
  KEYS[2] stock   hash    units by product and counter
  KEYS[3] holds   zset    score = expires_at_ms, member = order
  KEYS[4] orders  hash    order -> packed order
  KEYS[5] docs    hash    order -> its document
  KEYS[6] money   stream  consumed by the Flusher
  ARGV[1] msgpack: a list of {order, buyer, attempt, key, digest, attempt's document, rev of the order that the attempt
    was made for (0 whatever it is)}
  Returns for each {0, state, rev, expires_at_ms, is_replay, attempt packed} | {7} unknown | {20} another's
    | {9} changed since | {15} the key was used with another body | {17} expired | {18} ended | {1} recovering
    | {22} corrupt
  Events: claimed ]]
-- include: guard
-- include: shop
local meta, stock, holds, orders, docs, money = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local items = cmsgpack.unpack(ARGV[1])
if not is_registered(meta) then return all_answer(items, RECOVERING) end
if not has_types(stock, "hash", holds, "zset", orders, "hash", docs, "hash", money, "stream") then
  return all_answer(items, CORRUPT)
end
local now_ms = clock_ms()

local function replay(order, attempt)
  return {OK, order[STATE], order[REV], order[EXPIRES_AT], 1, cmsgpack.pack(attempt)}
end

local function attempt_by_key(order, key)
  for _, attempt in ipairs(order[ATTEMPTS]) do
    if attempt[TRY_KEY] == key then return attempt end
  end
end

local function decide(item)
  local id, buyer, key, digest = item[1], item[2], item[4], item[5]
  local order = read_packed(orders, id)
  if not order then return {UNKNOWN} end
  if order[BUYER] ~= buyer then return {NOT_YOURS} end
  local known = attempt_by_key(order, key)
  if known and known[TRY_DIGEST] ~= digest then return {KEY_REUSED} end
  if known then return replay(order, known) end
  if order[STATE] == "confirming" or order[STATE] == "confirmed" then
    return replay(order, order[ATTEMPTS][#order[ATTEMPTS]])
  end
  if order[STATE] == "expired" then return {ORDER_EXPIRED} end
  if order[STATE] ~= "reserved" then return {STATE_CONFLICT} end
  -- Its units may be free in a moment: the reaper is at most two seconds late.
  if order[EXPIRES_AT] <= now_ms then return {ORDER_EXPIRED} end
  -- Its total may be another now than the attempt would charge.
  if item[7] > 0 and order[REV] ~= item[7] then return {STALE} end
  local doc = redis.call("HGET", docs, id)
  assert(doc, id)
  return nil, {id = id, order = order, item = item, doc = doc,
    units = moved_units(stock, order[ITEMS], "held", "claimed")}
end

local function write(plan)
  local id, order, item = plan.id, plan.order, plan.item
  order[REV] = order[REV] + 1
  -- First, because it grows: with memory full Redis refuses it, and nothing has happened.
  local event = redis.call("XADD", money, "*", "verb", "claimed", "order", id, "rev", order[REV], "at", now_ms,
    "expires", order[EXPIRES_AT], "doc", plan.doc, "attempt", item[6])
  redis.call("ZREM", holds, id)
  redis.call("HSET", stock, unpack(plan.units))
  local attempt = {item[3], item[4], item[5], event, "open", "", "", 0}
  order[STATE], order[EVENT] = "confirming", event
  order[ATTEMPTS][#order[ATTEMPTS] + 1] = attempt
  write_packed(orders, id, order)
  return {OK, "confirming", order[REV], order[EXPIRES_AT], 0, cmsgpack.pack(attempt)}
end

return decide_then_write(items, decide, write)
