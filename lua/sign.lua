--[[ Signs of life of many places; the absent among them return to the line at their own place. Safe to repeat.
  KEYS[1] meta      hash     schedule; web_ms = when a web process was last heard
  KEYS[2] pauses    set      holders of the line
  KEYS[3] waiting   zset     places that wait
  KEYS[4] absent    zset     places passed over
  KEYS[5] tickets   hash     place -> packed ticket
  KEYS[6] presence0   KEYS[7] presence1   KEYS[8] presence2   KEYS[9] presence3   KEYS[10] presence4   bitmaps
  ARGV[1] items     msgpack list of places; none is a heartbeat of the process
  Returns {0, view | {7, place}, …} for those not simply waiting | {1} recovering | {22} corrupt ]]
-- include: guard
-- include: line
-- include: presence
local meta, pauses, waiting, absent, tickets = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local presence = {KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]}

if not is_registered(meta) then return {RECOVERING} end
if not are_types({
  [pauses] = "set", [waiting] = "zset", [absent] = "zset", [tickets] = "hash",
  [KEYS[6]] = "string", [KEYS[7]] = "string", [KEYS[8]] = "string", [KEYS[9]] = "string", [KEYS[10]] = "string"
}) then return {CORRUPT} end

local now = clock_ms()
local line = read_line(meta, pauses, now)
-- No process was heard for a while: buyers could not give signs, so none is missed from then.
if line.web_ms > 0 and now - line.web_ms > WEB_AWAY_MS then
  redis.call("HSET", meta, "presence_valid_from_ms", now)
end
redis.call("HSET", meta, "web_ms", now)

local items = cmsgpack.unpack(ARGV[1])
if #items == 0 then return {OK} end
local signs = presence_now(meta, presence, math.floor(now / line.quarter_ms))

local answers, returned = {OK}, 0
local scores = redis.call("ZMSCORE", waiting, unpack(items))
local bits = {}
for i, place in ipairs(items) do
  local is_known = scores[i]
  if not is_known then
    local t = unpack_ticket(redis.call("HGET", tickets, place))
    -- A turn made anew from the record is nobody's until its holder comes back with the ticket's id: a pass told from
    -- it now would be in no name.
    if t and t.buyer == "" then t = nil end
    local was_absent = t and t.state == WAITING and redis.call("ZSCORE", absent, place)
    if was_absent then
      redis.call("ZADD", waiting, place, place)
      redis.call("ZREM", absent, place)
      is_known, returned = true, returned + 1
    end
    answers[#answers + 1] = t and view_of(line, place, t, false, was_absent) or {UNKNOWN, place}
  end
  if is_known then
    bits[#bits + 1] = "SET"
    bits[#bits + 1] = "u1"
    bits[#bits + 1] = place
    bits[#bits + 1] = 1
  end
end
if returned > 0 then redis.call("HINCRBY", meta, "returned", returned) end
if #bits > 0 then redis.call("BITFIELD", signs, unpack(bits)) end
return answers
