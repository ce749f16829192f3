--[[ Free the seats of turns that the shop has closed. The cursor moves by compare-and-set, and each turn is its own, so
  closings that come twice, late or out of order change nothing more.
  KEYS[1] meta      hash     closings_cursor
  KEYS[2] tickets   hash     place -> packed ticket
  KEYS[3] leases    zset     member = turn, score = when the seat ends (ms)
  KEYS[4] gone      bitmap   places that had their turn, left or expired
  KEYS[5] feed      channel
  ARGV[1] seen      cursor that was read from     ARGV[2] upto  cursor after these closings
  ARGV[3] items     msgpack list of {turn, why}, why = completed, expired, left or revoked
  Returns {0, freed, cursor} | {1} recovering | {9, cursor} somebody was faster | {22} corrupt    Published: ended ]]
-- include: guard
-- include: line
local meta, tickets, leases, gone, feed = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local STALE = 9
local STATES = {completed = COMPLETED, expired = EXPIRED, left = LEFT, revoked = EXPIRED}
local WORDS = {[COMPLETED] = "completed", [EXPIRED] = "expired", [LEFT] = "left"}

if not is_registered(meta) then return {RECOVERING} end
if not are_types({
  [tickets] = "hash", [leases] = "zset", [gone] = "string"
}) then return {CORRUPT} end

local cursor = redis.call("HGET", meta, "closings_cursor") or ""
if cursor ~= ARGV[1] then return {STALE, cursor} end

local now = clock_ms()
local freed, ended = 0, {}

local function end_ticket(place, t, why)
  t.state, t.ended_ms = STATES[why], now
  redis.call("HSET", tickets, place, pack_ticket(t))
  redis.call("SETBIT", gone, place, 1)
  ended[#ended + 1] = {place, WORDS[t.state]}
end

-- A unit that was sold takes its seat out of what stock allows until the next figures come.
local function shrink_bound()
  if (tonumber(redis.call("HGET", meta, "seats_by_stock")) or 0) > 0 then
    redis.call("HINCRBY", meta, "seats_by_stock", -1)
  end
end

for _, item in ipairs(cmsgpack.unpack(ARGV[3])) do
  local turn, why = item[1], item[2]
  local was_seated = redis.call("ZREM", leases, turn) == 1
  freed = freed + (was_seated and 1 or 0)
  if was_seated and why == "completed" then shrink_bound() end
  local place = tonumber(string.match(turn, "^%d+%-(%d+)%-%d+$"))
  local t = place and unpack_ticket(redis.call("HGET", tickets, place))
  if t and t.turn == turn and t.state == ADMITTED and STATES[why] then end_ticket(place, t, why) end
end
redis.call("HSET", meta, "closings_cursor", ARGV[2])
if #ended > 0 then
  local epoch = tonumber(redis.call("HGET", meta, "epoch"))
  redis.call("PUBLISH", feed, cjson.encode({kind = "ended", epoch = epoch, tickets = ended}))
end
return {OK, freed, ARGV[2]}
