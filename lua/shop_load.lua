--[[ Write a whole sale under keys of a new epoch, step by step: `begin` removes what a rebuilder that died left, a step
  named as a key writes into it, `register` comes last and makes scripts act on it.
  KEYS[1]  meta      hash    run_id, and what shop_terms writes
  KEYS[2]  stock     hash    units by product and counter
  KEYS[3]  holds     zset    score = expires_at_ms, member = order
  KEYS[4]  orders    hash    order -> packed order
  KEYS[5]  docs      hash    order -> its document
  KEYS[6]  buyers    hash    buyer -> packed buyer
  KEYS[7]  turns     hash    turn -> packed turn
  KEYS[8]  keys      hash    buyer|Idempotency-Key -> packed answer
  KEYS[9]  ended     zset    what may be forgotten
  KEYS[10] moves     set     moves applied
  KEYS[11] money     stream  consumed by the Flusher
  KEYS[12] holdings  stream  consumed by the Flusher
  KEYS[13] closings  stream  consumed by the line's Admitter
  ARGV[1] step   ARGV[2] msgpack: field, value, … (hash), score, member, … (zset), members (set), turn, why, … (closings) or
    the run id of the server that was begun on (register)
  Returns {0} | {9} these keys are in use already, or the server has started anew since and lost steps
  Events: turn_closed ]]
-- include: guard
-- include: shop
local meta, stock, holds, orders, docs = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local buyers, turns, keys, ended, moves = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local money, holdings, closings = KEYS[11], KEYS[12], KEYS[13]
local step, values = ARGV[1], cmsgpack.unpack(ARGV[2])
if type(redis.pcall("HGET", meta, "run_id")) == "string" then return {STALE} end

local WRITES = {
  meta = {"HSET", meta}, stock = {"HSET", stock}, orders = {"HSET", orders}, docs = {"HSET", docs},
  buyers = {"HSET", buyers}, turns = {"HSET", turns}, keys = {"HSET", keys},
  holds = {"ZADD", holds}, ended = {"ZADD", ended}, moves = {"SADD", moves},
}
if step == "begin" then
  redis.call("UNLINK", meta, stock, holds, orders, docs, buyers, turns, keys, ended, moves, money, holdings, closings)
elseif step == "register" then
  if server_run_id() ~= values[1] then return {STALE} end
  redis.call("HSET", meta, "run_id", server_run_id())
elseif step == "closings" then
  -- Told again: what was written just before the loss never reached the line, and its seat would stay taken.
  for i = 1, #values, 2 do
    redis.call("XADD", closings, "*", "turn", values[i], "why", values[i + 1], "at", clock_ms())
  end
elseif #values > 0 then
  redis.call(WRITES[step][1], WRITES[step][2], unpack(values))
end
return {OK}
