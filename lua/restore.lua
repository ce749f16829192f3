--[[ Put tickets that this Redis forgot, and whose ids prove them, back at their places. Safe to repeat.
  Of two places of one buyer the lower wins; one that is admitted wins over any.
  KEYS[1] meta      hash     schedule, numbering
  KEYS[2] pauses    set      holders of the line
  KEYS[3] waiting   zset     places that wait
  KEYS[4] absent    zset     places passed over
  KEYS[5] tickets   hash     place -> packed ticket
  KEYS[6] buyers    hash     buyer -> place of the newest ticket, living or ended
  KEYS[7] gone      bitmap   places that had their turn, left or expired
  KEYS[8] feed      channel
  KEYS[9] presence0   KEYS[10] presence1   KEYS[11] presence2   KEYS[12] presence3   KEYS[13] presence4   bitmaps
  ARGV[1] items     msgpack list of {place, buyer, joined_ms, lane}
  Returns per item a view | {1} recovering | {7} never given | {8} had its turn, left, or its buyer stands better
    | {22} corrupt    Published: ended ]]
-- include: guard
-- include: line
-- include: presence
local meta, pauses, waiting, absent, tickets = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local buyers, gone, feed = KEYS[6], KEYS[7], KEYS[8]
local presence = {KEYS[9], KEYS[10], KEYS[11], KEYS[12], KEYS[13]}
local GONE = 8

local items = cmsgpack.unpack(ARGV[1])
if not is_registered(meta) then return answer_all(items, RECOVERING) end
if not are_types({
  [pauses] = "set", [waiting] = "zset", [absent] = "zset", [tickets] = "hash", [buyers] = "hash", [gone] = "string",
  [KEYS[9]] = "string", [KEYS[10]] = "string", [KEYS[11]] = "string", [KEYS[12]] = "string", [KEYS[13]] = "string"
}) then return answer_all(items, CORRUPT) end

local now = clock_ms()
local line = read_line(meta, pauses, now)
local signs = presence_now(meta, presence, math.floor(now / line.quarter_ms))
local ended = {}

-- Whether the buyer's other ticket gives way to this place.
local function gives_way(other, place)
  local t = unpack_ticket(redis.call("HGET", tickets, other))
  if not t or not is_living(t) then return true end
  if t.state == ADMITTED or other < place then return false end
  redis.call("ZREM", waiting, other)
  redis.call("ZREM", absent, other)
  t.state, t.ended_ms = LEFT, now
  redis.call("HSET", tickets, other, pack_ticket(t))
  redis.call("SETBIT", gone, other, 1)
  ended[#ended + 1] = {other, "left"}
  return true
end

local function restore(place, buyer, joined_ms, lane)
  local t = {
    state = WAITING, buyer = buyer, joined_ms = joined_ms, lane = lane, turns = 0, misses = 0, turn = "",
    admitted_ms = 0, told_ms = 0, pass_exp_ms = 0, ended_ms = 0
  }
  redis.call("HSET", tickets, place, pack_ticket(t))
  redis.call("HSET", buyers, buyer, place)
  redis.call("ZADD", waiting, place, place)
  redis.call("SETBIT", signs, place, 1)
  return view_of(line, place, t, false, false)
end

-- A turn known from the record whose holder was not: the holder has come, perhaps after its end.
local function adopt(place, t, buyer, joined_ms, lane)
  t.buyer, t.joined_ms, t.lane = buyer, joined_ms, lane
  redis.call("HSET", tickets, place, pack_ticket(t))
  if is_living(t) then redis.call("HSET", buyers, buyer, place) end
  return view_of(line, place, t, false, false)
end

local answers = {}
for i, item in ipairs(items) do
  local place, buyer, joined_ms, lane = item[1], item[2], item[3], item[4]
  local t = unpack_ticket(redis.call("HGET", tickets, place))
  local other = tonumber(redis.call("HGET", buyers, buyer))
  if t and t.buyer == buyer then
    answers[i] = view_of(line, place, t, t.state == WAITING and redis.call("ZSCORE", absent, place), false)
  elseif place < 1 or place > line.tail or (t and t.buyer ~= "") then
    answers[i] = {UNKNOWN}
  elseif t and not is_living(t) then
    answers[i] = adopt(place, t, buyer, joined_ms, lane)
  elseif not t and redis.call("GETBIT", gone, place) == 1 then
    answers[i] = {GONE}
  elseif other and other ~= place and not gives_way(other, place) then
    answers[i] = {GONE}
  elseif t then
    answers[i] = adopt(place, t, buyer, joined_ms, lane)
  else
    answers[i] = restore(place, buyer, joined_ms, lane)
  end
end
if #ended > 0 then
  redis.call("PUBLISH", feed, cjson.encode({kind = "ended", epoch = line.epoch, tickets = ended}))
end
return answers
