--[[ Being told is taking the turn: the first call fixes when the pass was made and ends, later ones answer the same.
  KEYS[1] meta      hash     schedule
  KEYS[2] pauses    set      holders of the line
  KEYS[3] policy    hash     pass_ttl_ms
  KEYS[4] absent    zset     places passed over
  KEYS[5] tickets   hash     place -> packed ticket
  KEYS[6] leases    zset     member = turn, score = when the seat ends (ms)
  KEYS[7] gone      bitmap   places that had their turn, left or expired
  ARGV[1] items     msgpack list of places
  ARGV[2] skew_ms   how much longer than the pass the seat is kept: the pass is judged by another server's clock
  Returns per item a view (not admitted: the turn went to the next, or has ended) | {1} recovering | {7} unknown
    | {22} corrupt ]]
-- include: guard
-- include: line
local meta, pauses, policy, absent, tickets, leases, gone = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]

local items = cmsgpack.unpack(ARGV[1])
if not is_registered(meta) then return answer_all(items, RECOVERING) end
if not are_types({
  [pauses] = "set", [policy] = "hash", [absent] = "zset", [tickets] = "hash", [leases] = "zset", [gone] = "string"
}) then return answer_all(items, CORRUPT) end

local now = clock_ms()
local line = read_line(meta, pauses, now)
local pass_ttl_ms = tonumber(redis.call("HGET", policy, "pass_ttl_ms"))

local function take(place, t)
  t.told_ms, t.pass_exp_ms = now, now + pass_ttl_ms
  redis.call("HSET", tickets, place, pack_ticket(t))
  redis.call("ZADD", leases, t.pass_exp_ms + tonumber(ARGV[2]), t.turn)
  redis.call("SETBIT", gone, place, 1)
end

local answers = {}
for i, place in ipairs(items) do
  local t = unpack_ticket(redis.call("HGET", tickets, place))
  if t and t.state == ADMITTED and t.told_ms == 0 then take(place, t) end
  if t then
    answers[i] = view_of(line, place, t, t.state == WAITING and redis.call("ZSCORE", absent, place), false)
  else
    answers[i] = {UNKNOWN}
  end
end
return answers
