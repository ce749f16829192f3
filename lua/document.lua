--[[ One consistent look at the line, for whoever makes its next document. Asking claims the making for a second, so many
  admitters make one document.
  KEYS[1] meta      hash     counters, stock figures, what was shown last
  KEYS[2] policy    hash     rate_centi, active_max
  KEYS[3] pauses    set      holders of the line
  KEYS[4] waiting   zset     places that wait
  KEYS[5] absent    zset     places passed over
  KEYS[6] leases    zset     seats
  Returns {0, epoch, seq, state, now_ms, opens_at_ms, closes_at_ms, serving, tail, waiting, absent, admitted, rate_centi,
    short_s, short_count, long_s, long_count, active, active_max, free, held, sold, kept, back, message, reason,
    reason_at_ms, reason_params, shown_state, shown_reason, inversions, cap_violations, {place, …}}
    | {1} recovering | {9} somebody makes it | {22} corrupt ]]
-- include: guard
-- include: line
-- include: bucket
local meta, policy, pauses, waiting, absent, leases = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local STALE = 9
local DOCUMENT_EVERY_MS, STOCK_FRESH_MS = 1000, 2000
-- How long a change is told.
local CHANGE_SHOWN_MS = 60000
-- So many who come or go at once move a position by more than its own error: at least ten, and one in fifty.
local JUMP_MIN, JUMP_SHARE = 10, 50
local EXACT = 256
local HOLDERS = {
  {"recovering", "recovering"}, {"operator", "paused_by_operator"}, {"record", "record_behind"}, {"provider", "provider_away"}
}

if not is_registered(meta) then return {RECOVERING} end
if not are_types({
  [policy] = "hash", [pauses] = "set", [waiting] = "zset", [absent] = "zset", [leases] = "zset"
}) then return {CORRUPT} end

local now = clock_ms()
local line = read_line(meta, pauses, now)

local function read_meta(names)
  local found, values = {}, redis.call("HMGET", meta, unpack(names))
  for i, name in ipairs(names) do found[name] = values[i] or "" end
  return found
end

local m = read_meta({
  "seq", "document_ms", "is_due", "serving", "admitted", "free", "held", "claimed", "sold", "stock_at_ms", "message",
  "reason", "reason_at_ms", "reason_params", "shown_state", "shown_reason", "change", "change_at_ms", "change_params",
  "units_kept", "units_back", "inversions", "cap_violations", "returned", "returned_shown", "put_aside", "put_aside_shown"
})
local function number(name)
  return tonumber(m[name]) or 0
end

if m.is_due ~= "1" and math.abs(now - number("document_ms")) < DOCUMENT_EVERY_MS and m.shown_state == line.state then
  return {STALE}
end
redis.call("HSET", meta, "document_ms", now, "is_due", 0)

local living = line.is_closed and 0 or redis.call("ZCARD", waiting)

-- People who come back to places in front of others, and people who are put aside there, move positions without anybody's
-- doing: it is told, unless an operator's change is.
local function note_jump()
  local came, went = number("returned") - number("returned_shown"), number("put_aside") - number("put_aside_shown")
  redis.call("HSET", meta, "returned_shown", number("returned"), "put_aside_shown", number("put_aside"))
  local people = math.max(came, went)
  local is_free = m.change == "" or m.change == "others_returned" or m.change == "others_away"
  if people < math.max(JUMP_MIN, living / JUMP_SHARE) then return end
  if not is_free and now - number("change_at_ms") < CHANGE_SHOWN_MS then return end
  m.change, m.change_at_ms = came >= went and "others_returned" or "others_away", now
  m.change_params = string.format('{"people":%d}', people)
  note_change(meta, m.change, m.change_params, now)
end

if not line.is_closed then note_jump() end

local is_stock_fresh = number("stock_at_ms") > 0 and now - number("stock_at_ms") <= STOCK_FRESH_MS

-- Why nobody is let in, or what changed lately: a word and its facts.
local function reason_now()
  for _, holder in ipairs(HOLDERS) do
    if redis.call("SISMEMBER", pauses, holder[1]) == 1 then return holder[2], "{}" end
  end
  if is_letting_in(line) and not is_stock_fresh then return "stock_unknown", "{}" end
  if is_letting_in(line) and number("free") <= 0 and number("held") + number("claimed") > 0 then
    return "sold_out_holds_pending", string.format('{"held":%d}', number("held") + number("claimed"))
  end
  if not line.is_closed and m.change ~= "" and now - number("change_at_ms") < CHANGE_SHOWN_MS then
    return m.change, m.change_params
  end
  return "", "{}"
end

local reason, params = reason_now()
if reason ~= m.reason or (params ~= m.reason_params and reason == m.change) then
  m.reason_at_ms = now
end
if reason ~= m.reason or params ~= m.reason_params then
  redis.call("HSET", meta, "reason", reason, "reason_at_ms", m.reason_at_ms, "reason_params", params)
end

-- People let in during the last whole seconds, and how many seconds those were.
local function recent(seconds)
  local second, count = math.floor(now / 1000), 0
  local since = math.max(second - seconds, math.ceil(line.opens_at_ms / 1000))
  for s = since, second - 1 do
    local known = tonumber(redis.call("HGET", meta, "second:" .. s % 64)) or 0
    if math.floor(known / PERSON) == s then count = count + known % PERSON end
  end
  return math.max(0, second - since), count
end

-- Places of rank 1 to 256, then of ranks r -> max(r + 1, floor(51 r / 50)), and of the last.
local function sample()
  local places = {}
  if living == 0 then return places end
  for i, member in ipairs(redis.call("ZRANGE", waiting, 0, EXACT - 1)) do places[i] = tonumber(member) end
  local rank = #places
  while rank < living do
    rank = math.min(living, math.max(rank + 1, math.floor(51 * rank / 50)))
    places[#places + 1] = tonumber(redis.call("ZRANGE", waiting, rank - 1, rank - 1)[1])
  end
  return places
end

local short_s, short_count = recent(10)
local long_s, long_count = recent(60)
local is_counted = m.stock_at_ms ~= ""
return {
  OK, line.epoch, number("seq") + 1, line.state, now, line.opens_at_ms, line.closes_at_ms, number("serving"), line.tail,
  living, line.is_closed and 0 or redis.call("ZCARD", absent), number("admitted"),
  tonumber(redis.call("HGET", policy, "rate_centi")), short_s, short_count, long_s, long_count,
  redis.call("ZCARD", leases), tonumber(redis.call("HGET", policy, "active_max")),
  is_counted and number("free") or -1, is_counted and number("held") + number("claimed") or -1,
  is_counted and number("sold") or -1, number("units_kept"), number("units_back"), m.message, reason,
  tonumber(m.reason_at_ms) or 0, params, m.shown_state, m.shown_reason, number("inversions"), number("cap_violations"), sample()
}
