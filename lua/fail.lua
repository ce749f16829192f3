--[[ End claims whose payment failed for good: claimed -> free, order payment_failed. Safe to repeat. Works with memory
  full. With `remake` a claim that Redis has forgotten ends too: the record has it open.
  KEYS[1]  meta    hash    whose keys these are
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
    | {1} recovering | {22} corrupt    Events: failed ]]
-- include: guard
-- include: shop
local meta, stock, holds, orders, docs = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local buyers, turns, keys, ended, money = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
-- include: ending
-- include: remaking
-- include: failing
local items = cmsgpack.unpack(ARGV[1])
if not is_registered(meta) then return all_answer(items, RECOVERING) end
if not has_types(stock, "hash", holds, "zset", orders, "hash", docs, "hash", buyers, "hash", turns, "hash", keys, "hash", ended, "zset",
  money, "stream") then
  return all_answer(items, CORRUPT)
end
local now_ms = clock_ms()

local function decide(item)
  local id, reason, remake = item[1], item[3], item[4]
  local order = read_packed(orders, id)
  local attempt = order and attempt_of(order, item[2])
  if remake and is_claim_forgotten(order, attempt) then
    return nil, plan_remade_failing(id, order, item[2], reason, remake, now_ms)
  end
  if not attempt then return {UNKNOWN} end
  if attempt[TRY_OUTCOME] == "failed" then
    return {OK, attempt[TRY_END_EVENT], attempt[TRY_END_REV], order[EXPIRES_AT], order[STATE], 1}
  end
  if attempt[TRY_OUTCOME] ~= "open" or order[STATE] ~= "confirming" then return {STATE_CONFLICT} end
  return nil, plan_failing(id, order, attempt, reason, "claimed")
end

return decide_then_write(items, decide, function(plan) return write_failing(plan, now_ms) end)
