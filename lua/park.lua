--[[ Put the silent aside over the whole line, ahead of need, so that people ahead are people. A cursor goes round.
  KEYS[1] meta      hash     park_cursor, schedule
  KEYS[2] pauses    set      holders of the line
  KEYS[3] waiting   zset     places that wait
  KEYS[4] absent    zset     places passed over
  KEYS[5] feed      channel
  KEYS[6] presence0   KEYS[7] presence1   KEYS[8] presence2   KEYS[9] presence3   KEYS[10] presence4   bitmaps
  ARGV[1] look_max  places a call     ARGV[2] park_max  of them put aside
  Returns {0, looked, parked} | {1} recovering | {22} corrupt    Published: absent ]]
-- include: guard
-- include: line
-- include: presence
local meta, pauses, waiting, absent, feed = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local presence = {KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]}
local look_max, park_max = tonumber(ARGV[1]), tonumber(ARGV[2])

if not is_registered(meta) then return {RECOVERING} end
if not are_types({
  [pauses] = "set", [waiting] = "zset", [absent] = "zset", [KEYS[6]] = "string", [KEYS[7]] = "string",
  [KEYS[8]] = "string", [KEYS[9]] = "string", [KEYS[10]] = "string"
}) then return {CORRUPT} end

local now = clock_ms()
local line = read_line(meta, pauses, now)
local is_moving = line.state == "open" or line.state == "draining" or line.state == "paused"
if not is_moving or not is_silence_telling(line, now) then return {OK, 0, 0} end

-- Places of the list without a bit in this bitmap, asked in one call: at a million waiting, most are found in the first.
local function without_sign(bitmap, places)
  local questions = {}
  for _, place in ipairs(places) do
    questions[#questions + 1] = "GET"
    questions[#questions + 1] = "u1"
    questions[#questions + 1] = place
  end
  local silent = {}
  for i, bit in ipairs(redis.call("BITFIELD", bitmap, unpack(questions))) do
    if bit == 0 then silent[#silent + 1] = places[i] end
  end
  return silent
end

local cursor = redis.call("HGET", meta, "park_cursor") or "0"
local places = redis.call("ZRANGEBYSCORE", waiting, "(" .. cursor, "+inf", "LIMIT", 0, look_max)
local looked, last = #places, places[#places]
for _, bitmap in ipairs(presence_recent(meta, presence, math.floor(now / line.quarter_ms))) do
  if #places == 0 then break end
  places = without_sign(bitmap, places)
end

local parked = {}
for i = 1, math.min(#places, park_max) do
  redis.call("ZADD", absent, places[i], places[i])
  redis.call("ZREM", waiting, places[i])
  parked[i] = tonumber(places[i])
  last = #places > park_max and places[i] or last
end
redis.call("HSET", meta, "park_cursor", (looked < look_max and #places <= park_max) and "0" or last)
if #parked > 0 then
  redis.call("HINCRBY", meta, "put_aside", #parked)
  redis.call("PUBLISH", feed, cjson.encode({kind = "absent", epoch = line.epoch, places = parked}))
end
return {OK, looked, #parked}
