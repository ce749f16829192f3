--[[ One moment of a sale's stock, for the audit: its counters, every event that the record has not, and where the orders
  stand that only Redis can tell of.
  KEYS[1] meta      hash    whose keys these are
  KEYS[2] stock     hash    units by product and counter
  KEYS[3] orders    hash    order -> packed order
  KEYS[4] moves     set     moves applied
  KEYS[5] money     stream  consumed by the Flusher
  KEYS[6] holdings  stream  consumed by the Flusher
  ARGV[1] money_upto   ARGV[2] holds_upto, stream ids that the record has   ARGV[3] events a stream, at most
  ARGV[4] msgpack: orders whose claims the record refused   ARGV[5] msgpack: moves not known to be applied
  Returns {0, {counter, units, …}, {entry, …} of money, {entry, …} of holdings, {order, packed or "", …}, {is_applied, …}}
    | {16} the record is too far behind | {1} recovering | {22} corrupt    Events: none ]]
-- include: guard
-- include: shop
local meta, stock, orders, moves, money, holdings = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local events_max = tonumber(ARGV[3])
if not is_registered(meta) then return {RECOVERING} end
if not has_types(stock, "hash", orders, "hash", moves, "set", money, "stream", holdings, "stream") then
  return {CORRUPT}
end

local paid = redis.call("XRANGE", money, "(" .. ARGV[1], "+", "COUNT", events_max + 1)
local held = redis.call("XRANGE", holdings, "(" .. ARGV[2], "+", "COUNT", events_max + 1)
if #paid > events_max or #held > events_max then return {RECORD_BEHIND} end

-- The orders of claims that the record may refuse, or has: refusing leaves no event.
local wanted = cmsgpack.unpack(ARGV[4])
for _, entry in ipairs(paid) do
  for i = 1, #entry[2], 2 do
    if entry[2][i] == "order" then wanted[#wanted + 1] = entry[2][i + 1] end
  end
end
local standing = {}
for _, order in ipairs(wanted) do
  standing[#standing + 1] = order
  standing[#standing + 1] = redis.call("HGET", orders, order) or ""
end

local applied = {}
for i, move in ipairs(cmsgpack.unpack(ARGV[5])) do applied[i] = redis.call("SISMEMBER", moves, move) end
return {OK, redis.call("HGETALL", stock), paid, held, standing, applied}
