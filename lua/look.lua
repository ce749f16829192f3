--[[ Tickets as they stand. Changes nothing.
  KEYS[1] meta      hash     schedule
  KEYS[2] pauses    set      holders of the line
  KEYS[3] absent    zset     places passed over
  KEYS[4] tickets   hash     place -> packed ticket
  ARGV[1] items     msgpack list of places
  Returns per item a view | {1} recovering | {7} unknown here | {22} corrupt ]]
-- include: guard
-- include: line
local meta, pauses, absent, tickets = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

local items = cmsgpack.unpack(ARGV[1])
if not is_registered(meta) then return answer_all(items, RECOVERING) end
if not are_types({[pauses] = "set", [absent] = "zset", [tickets] = "hash"}) then return answer_all(items, CORRUPT) end

local line = read_line(meta, pauses, clock_ms())
local answers = {}
for i, place in ipairs(items) do
  local t = unpack_ticket(redis.call("HGET", tickets, place))
  if t then
    answers[i] = view_of(line, place, t, t.state == WAITING and redis.call("ZSCORE", absent, place), false)
  else
    answers[i] = {UNKNOWN}
  end
end
return answers
