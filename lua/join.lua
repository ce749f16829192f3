--[[ Join the line: each buyer's living ticket, or the next place. Safe to repeat: a buyer has one living ticket.
  A joining is a first sign of life; one that finds its ticket absent brings it back to the line.
  KEYS[1] meta      hash     schedule, numbering: tail is the highest place given, ceiling the highest that may be
  KEYS[2] pauses    set      holders of the line
  KEYS[3] waiting   zset     places that wait
  KEYS[4] absent    zset     places passed over
  KEYS[5] tickets   hash     place -> packed ticket
  KEYS[6] buyers    hash     buyer -> place of the newest ticket, living or ended
  KEYS[7] presence0   KEYS[8] presence1   KEYS[9] presence2   KEYS[10] presence3   KEYS[11] presence4   bitmaps
  ARGV[1] items     msgpack list of {buyer, lane}
  Returns per item a view with is_fresh behind it | {1} recovering | {3} draining | {4} sold out | {5} ended
    | {6, ceiling, run_id} raise the ceiling and ask again | {22} corrupt ]]
-- include: guard
-- include: line
-- include: presence
local meta, pauses, waiting, absent, tickets, buyers = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local presence = {KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]}
local DRAINING, SOLD_OUT, ENDED, CEILING = 3, 4, 5, 6
local REFUSALS = {recovering = RECOVERING, draining = DRAINING, sold_out = SOLD_OUT, ended = ENDED}

local items = cmsgpack.unpack(ARGV[1])
if not is_registered(meta) then return answer_all(items, RECOVERING) end
if not are_types({
  [pauses] = "set", [waiting] = "zset", [absent] = "zset", [tickets] = "hash", [buyers] = "hash",
  [KEYS[7]] = "string", [KEYS[8]] = "string", [KEYS[9]] = "string", [KEYS[10]] = "string", [KEYS[11]] = "string"
}) then return answer_all(items, CORRUPT) end

local now = clock_ms()
local line = read_line(meta, pauses, now)
local refusal = REFUSALS[line.state]
local signs = presence_now(meta, presence, math.floor(now / line.quarter_ms))

local function again(place, t)
  local was_absent = t.state == WAITING and redis.call("ZSCORE", absent, place)
  if was_absent then
    redis.call("ZADD", waiting, place, place)
    redis.call("ZREM", absent, place)
    redis.call("HINCRBY", meta, "returned", 1)
  end
  redis.call("SETBIT", signs, place, 1)
  local view = view_of(line, place, t, false, was_absent)
  view[#view + 1] = 0
  return view
end

-- Newcomers are written together, a command a key: at a call for each of them a join would cost three times as much.
local packed, named, placed, signed = {}, {}, {}, {}

local function afresh(buyer, lane)
  if line.tail >= line.ceiling then return {CEILING, line.ceiling, redis.call("HGET", meta, "run_id")} end
  line.tail = line.tail + 1
  local place = line.tail
  local t = {
    state = WAITING, buyer = buyer, joined_ms = now, lane = lane, turns = 0, misses = 0, turn = "", admitted_ms = 0,
    told_ms = 0, pass_exp_ms = 0, ended_ms = 0
  }
  append(packed, place, pack_ticket(t))
  append(named, buyer, place)
  append(placed, place, place)
  append(signed, "SET", "u1", place, 1)
  local view = view_of(line, place, t, false, false)
  view[#view + 1] = 1
  return view, t
end

local function names_of(list)
  local names = {}
  for i, item in ipairs(list) do names[i] = item[1] end
  return names
end

local answers, newcomers = {}, {}
for i, known in ipairs(call_in_parts("HMGET", buyers, names_of(items))) do
  local buyer = items[i][1]
  local place = tonumber(known)
  local t = place and unpack_ticket(redis.call("HGET", tickets, place))
  if newcomers[buyer] then
    answers[i] = {unpack(newcomers[buyer])}
    answers[i][#answers[i]] = 0
  elseif t and is_living(t) and not (t.state == WAITING and line.is_closed) then
    answers[i] = again(place, t)
  elseif refusal then
    answers[i] = {refusal}
  else
    local is_given
    answers[i], is_given = afresh(buyer, items[i][2])
    newcomers[buyer] = is_given and answers[i]
  end
end

if #placed > 0 then
  -- The numbers are spent before anything hangs on them: whatever follows, nobody else gets them.
  redis.call("HSET", meta, "tail", line.tail)
  call_in_parts("HSET", tickets, packed)
  call_in_parts("HSET", buyers, named)
  call_in_parts("ZADD", waiting, placed)
  call_in_parts("BITFIELD", signs, signed)
end
return answers
