--[[ End living tickets as left. One that has ended stays as it ended; safe to repeat.
  KEYS[1] meta      hash     schedule
  KEYS[2] pauses    set      holders of the line
  KEYS[3] waiting   zset     places that wait
  KEYS[4] absent    zset     places passed over
  KEYS[5] tickets   hash     place -> packed ticket
  KEYS[6] leases    zset     member = turn, score = when the seat ends (ms)
  KEYS[7] gone      bitmap   places that had their turn, left or expired
  KEYS[8] feed      channel
  ARGV[1] items     msgpack list of {place, closed_turn}: the turn that the shop has closed, "" = none yet
  Returns per item a view | {1} recovering | {7} unknown | {22} corrupt | {23, turn} close this turn at the shop first
  Published: ended ]]
-- include: guard
-- include: line
local meta, pauses, waiting, absent, tickets = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local leases, gone, feed = KEYS[6], KEYS[7], KEYS[8]
local TURN_BUSY = 23

local items = cmsgpack.unpack(ARGV[1])
if not is_registered(meta) then return answer_all(items, RECOVERING) end
if not are_types({
  [pauses] = "set", [waiting] = "zset", [absent] = "zset", [tickets] = "hash", [leases] = "zset",
  [gone] = "string"
}) then return answer_all(items, CORRUPT) end

local now = clock_ms()
local line = read_line(meta, pauses, now)
local ended = {}

-- Takes out before it writes: a line in a full memory can still be left.
local function leave(place, t)
  redis.call("ZREM", waiting, place)
  redis.call("ZREM", absent, place)
  if t.turn ~= "" then redis.call("ZREM", leases, t.turn) end
  t.state, t.ended_ms = LEFT, now
  redis.call("HSET", tickets, place, pack_ticket(t))
  redis.call("SETBIT", gone, place, 1)
  ended[#ended + 1] = {place, "left"}
end

local answers = {}
for i, item in ipairs(items) do
  local place, closed_turn = item[1], item[2]
  local t = unpack_ticket(redis.call("HGET", tickets, place))
  if not t then
    answers[i] = {UNKNOWN}
  elseif t.state == ADMITTED and t.turn ~= closed_turn then
    answers[i] = {TURN_BUSY, t.turn}
  else
    if is_living(t) then leave(place, t) end
    answers[i] = view_of(line, place, t, false, false)
  end
end
if #ended > 0 then
  redis.call("PUBLISH", feed, cjson.encode({kind = "ended", epoch = line.epoch, tickets = ended}))
end
return answers
