--[[ End turns, and tell the line once. An expired turn with an open order is kept until that order ends. A turn nobody
  reserved with is remembered as closed, so that a late reserve is refused. Safe to repeat. Works with memory full.
  KEYS[1] meta      hash    whose keys these are
  KEYS[2] orders    hash    order -> packed order
  KEYS[3] turns     hash    turn -> packed turn
  KEYS[4] ended     zset    what may be forgotten
  KEYS[5] closings  stream  consumed by the line's Admitter
  ARGV[1] why: expired, left or revoked
  ARGV[2] msgpack: a list of turns
  Returns for each {0, 0} closed | {0, until_ms} kept by its open order | {1} recovering | {22} corrupt
  Events: turn_closed ]]
-- include: guard
-- include: shop
local meta, orders, turns, ended, closings = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
-- A payment in flight has no end of its own: ask again soon. A lapse is at most two seconds late.
local ASK_AGAIN_PAYING_MS, ASK_AGAIN_MS = 5000, 1000
local why, items = ARGV[1], cmsgpack.unpack(ARGV[2])
if not is_registered(meta) then return all_answer(items, RECOVERING) end
if not has_types(orders, "hash", turns, "hash", ended, "zset", closings, "stream") then
  return all_answer(items, CORRUPT)
end
local now_ms = clock_ms()

-- Until when its open order keeps a turn; nil where it has none.
local function kept_until(turn)
  local order = turn[TURN_OPEN] ~= "" and read_packed(orders, turn[TURN_OPEN])
  if not order then return nil end
  if order[STATE] == "confirming" then return now_ms + ASK_AGAIN_PAYING_MS end
  if order[STATE] == "reserved" then return math.max(order[EXPIRES_AT], now_ms + ASK_AGAIN_MS) end
end

local function decide(id)
  local turn = read_packed(turns, id) or {"open", ""}
  if turn[TURN_STATE] ~= "open" then return {OK, 0} end
  local until_ms = why == "expired" and kept_until(turn)
  if until_ms then return {OK, until_ms} end
  return nil, {id = id, turn = turn}
end

local function write(plan)
  -- First, because it frees (or does nothing): Redis refuses no later write of a script that has begun to write.
  redis.call("ZREM", ended, "t|" .. plan.id)
  plan.turn[TURN_STATE] = why == "revoked" and "revoked" or "closed"
  write_packed(turns, plan.id, plan.turn)
  redis.call("ZADD", ended, now_ms, "t|" .. plan.id)
  redis.call("XADD", closings, "*", "turn", plan.id, "why", why, "at", now_ms)
  return {OK, 0}
end

return decide_then_write(items, decide, write)
