--[[ Drop what ended long ago: orders that are recorded with their documents and keys, turns, keys of refusals, that a
  buyer held without buying; and closings that the line has read. Works with memory full.
  KEYS[1] meta      hash    money_upto, holds_upto
  KEYS[2] orders    hash    order -> packed order
  KEYS[3] docs      hash    order -> its document
  KEYS[4] turns     hash    turn -> packed turn
  KEYS[5] keys      hash    buyer|Idempotency-Key -> packed answer, #buyer -> refusals among them
  KEYS[6] ended     zset    score = when (ms); an order, `t|turn`, `k|buyer|key` or `b|buyer`
  KEYS[7] closings  stream  consumed by the line's Admitter
  KEYS[8] buyers    hash    buyer -> packed buyer
  ARGV[1] age (ms) beyond which to forget   ARGV[2] count, at most so many   ARGV[3] age (ms) of closings to keep
  Returns {0, forgotten, more} | {1} recovering | {22} corrupt    Events: none ]]
-- include: guard
-- include: shop
-- include: stream_ids
local meta, orders, docs, turns, keys, ended = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local closings, buyers = KEYS[7], KEYS[8]
local age_ms, count, closings_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if not is_registered(meta) then return {RECOVERING} end
if not has_types(orders, "hash", docs, "hash", turns, "hash", keys, "hash", ended, "zset", closings, "stream",
  buyers, "hash") then
  return {CORRUPT}
end
local now_ms = clock_ms()
local UPTO_BY_STATE = {
  confirmed = "money_upto", payment_failed = "money_upto", expired = "holds_upto", released = "holds_upto",
}

-- A claim the record refused ended without an event of its own: its newest is the `claimed` one, judged long ago.
local function is_recorded(order)
  local field = UPTO_BY_STATE[order[STATE]]
  local newest = order[ATTEMPTS][#order[ATTEMPTS]]
  if newest and newest[TRY_OUTCOME] == "refused" then field = "money_upto" end
  return field and not is_after(order[EVENT], redis.call("HGET", meta, field) or "0-0")
end

local function decide(member)
  local kind, rest = string.match(member, "^([tkb])|(.*)$")
  if kind == "t" then return nil, {member = member, turn = rest} end
  if kind == "k" then
    local count = "#" .. string.match(rest, "^[^|]*")
    local refusals = tonumber(redis.call("HGET", keys, count) or nil) or 0
    return nil, {member = member, refusal = rest, count = count, left = refusals - 1}
  end
  if kind == "b" then return nil, {member = member, name = rest, buyer = read_packed(buyers, rest)} end
  local order = read_packed(orders, member)
  -- Stays until it is recorded; nobody reads what is answered here.
  if order and not is_recorded(order) then return {OK} end
  return nil, {member = member, order = order}
end

local forgotten = 0
local function write(plan)
  redis.call("ZREM", ended, plan.member)
  if plan.turn then redis.call("HDEL", turns, plan.turn) end
  if plan.refusal then
    redis.call("HDEL", keys, plan.refusal)
    if plan.left > 0 then redis.call("HSET", keys, plan.count, plan.left) else redis.call("HDEL", keys, plan.count) end
  end
  if plan.buyer then
    plan.buyer[BUYER_DROPPED], plan.buyer[BUYER_DROPPED_AT] = nil, nil
    write_buyer(buyers, plan.name, plan.buyer)
  end
  if plan.order then
    redis.call("HDEL", orders, plan.member)
    redis.call("HDEL", docs, plan.member)
    redis.call("HDEL", keys, plan.order[KEY])
  end
  forgotten = forgotten + 1
  return {OK}
end

redis.call("XTRIM", closings, "MINID", "~", math.max(0, now_ms - closings_ms) .. "-0")
decide_then_write(redis.call("ZRANGEBYSCORE", ended, "-inf", now_ms - age_ms, "LIMIT", 0, count), decide, write)
return {OK, forgotten, forgotten == count and 1 or 0}
