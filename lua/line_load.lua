--[[ Write what the record knows of people let in before a loss into a line that is not registered yet: their places are
  gone, and whose seat may still be in use has it again. Safe to repeat.
  KEYS[1] meta      hash
  KEYS[2] tickets   hash     place -> packed ticket
  KEYS[3] leases    zset     member = turn, score = when the seat ends (ms)
  KEYS[4] gone      bitmap   places that had their turn, left or expired
  ARGV[1] items     msgpack list of {place, turn, turns, admitted_ms, pass_exp_ms, seat_until_ms, is_told}; turn "" = only
                    gone
  Returns {0} | {9} registered already | {22} corrupt ]]
-- include: guard
-- include: line
local meta, tickets, leases, gone = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local STALE = 9

if is_registered(meta) then return {STALE} end
if not are_types({[meta] = "hash", [tickets] = "hash", [leases] = "zset", [gone] = "string"}) then return {CORRUPT} end

for _, item in ipairs(cmsgpack.unpack(ARGV[1])) do
  local place, turn, is_told = item[1], item[2], item[7]
  if is_told then redis.call("SETBIT", gone, place, 1) end
  if turn ~= "" then
    -- The holder is not known until the ticket's id comes back. A turn that was told, only the shop ends.
    redis.call("HSET", tickets, place, pack_ticket({
      state = ADMITTED, buyer = "", joined_ms = 0, lane = 0, turns = item[3], misses = 0, turn = turn,
      admitted_ms = item[4], told_ms = is_told and item[4] or 0, pass_exp_ms = item[5], ended_ms = 0
    }))
    redis.call("ZADD", leases, item[6], turn)
  end
end
return {OK}
