--[[ Let in the first of the living, as many as rate, cap and stock allow; pass over the silent; take back turns that could
  not be told. Any number of admitters may call it at any time: what it lets in is decided by Redis time alone.
  KEYS[1] meta       hash     schedule, bucket, stock figures, counters
  KEYS[2] policy     hash     rate_centi, active_max, turn_ttl_ms, revert_at_ms, back
  KEYS[3] pauses     set      holders of the line
  KEYS[4] waiting    zset     places that wait
  KEYS[5] absent     zset     places passed over
  KEYS[6] tickets    hash     place -> packed ticket
  KEYS[7] leases     zset     member = turn, score = when the seat ends (ms)
  KEYS[8] gone       bitmap   places that had their turn, left or expired
  KEYS[9] admissions  stream  recorded by the Flusher
  KEYS[10] feed      channel
  KEYS[11] presence0   KEYS[12] presence1   KEYS[13] presence2   KEYS[14] presence3   KEYS[15] presence4   bitmaps
  ARGV[1] figures    msgpack {free, held, claimed, sold, seats_max, age_ms, kept, back}, or an empty list: not known
  ARGV[2] admit_max  people a call, so that no call holds Redis for long
  ARGV[3] skew_ms    how much longer than its pass a seat is kept
  Returns {0, state, active, admitted, passed_over, untold, expired, is_more, is_due, closings cursor, {overdue turn, …}}
    | {1} recovering | {22} corrupt    Events: admissions    Published: admitted, absent, ended ]]
-- include: guard
-- include: line
-- include: presence
-- include: bucket
-- include: settings
local meta, policy, pauses, waiting, absent, tickets = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local leases, gone, admissions, feed = KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local presence = {KEYS[11], KEYS[12], KEYS[13], KEYS[14], KEYS[15]}
-- Figures older than this let nobody in: stock moves as fast as people buy.
local STOCK_FRESH_MS = 2000
-- No tick for this long: Redis was away from everybody, or its clock was moved; no silence of that time counts.
local TICK_AWAY_MS = 10000
-- No figures of the shop for this long: nobody could buy, and passes end later by all of it.
local SHOP_AWAY_MS = 5000
local PASS_OVER_MAX, LEASES_MAX, MISSES_MAX = 1000, 100, 3
local DOCUMENT_EVERY_MS = 1000

if not is_registered(meta) then return {RECOVERING} end
if not are_types({
  [policy] = "hash", [pauses] = "set", [waiting] = "zset", [absent] = "zset", [tickets] = "hash",
  [leases] = "zset", [gone] = "string", [admissions] = "stream", [KEYS[11]] = "string", [KEYS[12]] = "string",
  [KEYS[13]] = "string", [KEYS[14]] = "string", [KEYS[15]] = "string"
}) then return {CORRUPT} end

local now = clock_ms()

-- The window in which tickets are gathered after a loss ends by itself, whoever is still alive to see it.
local function lift_gathering()
  local until_ms = tonumber(redis.call("HGET", meta, "gather_until_ms")) or 0
  if until_ms == 0 or now < until_ms then return end
  redis.call("HSET", meta, "gather_until_ms", 0, "bucket_at_ms", now)
  lift(meta, pauses, "recovering", now)
end

local function note_tick()
  local last_ms = tonumber(redis.call("HGET", meta, "tick_ms")) or now
  if math.abs(now - last_ms) > TICK_AWAY_MS then redis.call("HSET", meta, "presence_valid_from_ms", now) end
  redis.call("HSET", meta, "tick_ms", now)
end

local function note_shop()
  local heard_ms = tonumber(redis.call("HGET", meta, "shop_heard_ms")) or now
  if now - heard_ms > SHOP_AWAY_MS then note_outage(meta, heard_ms, now) end
  redis.call("HSET", meta, "shop_heard_ms", now)
end

local function note_stock(figures)
  local known_ms = tonumber(redis.call("HGET", meta, "stock_at_ms")) or 0
  if #figures > 0 then note_shop() end
  -- A known time that is yet to come is of a clock that went back.
  if #figures == 0 or (now - figures[6] < known_ms and known_ms <= now) then return end
  redis.call("HSET", meta, "free", figures[1], "held", figures[2], "claimed", figures[3], "sold", figures[4],
    "seats_by_stock", figures[5], "stock_at_ms", now - figures[6], "units_kept", figures[7], "units_back", figures[8])
end

local function read_stock()
  local v = redis.call("HMGET", meta, "free", "held", "claimed", "seats_by_stock", "stock_at_ms")
  local at_ms = tonumber(v[5]) or 0
  local is_fresh = at_ms > 0 and now - at_ms <= STOCK_FRESH_MS
  return {
    left = (tonumber(v[1]) or 0) + (tonumber(v[2]) or 0) + (tonumber(v[3]) or 0),
    seats_max = is_fresh and tonumber(v[4]) or 0, is_fresh = is_fresh, at_ms = at_ms
  }
end

lift_gathering()
note_tick()
revert_if_due(meta, policy, pauses, now)
note_stock(cmsgpack.unpack(ARGV[1]))
local line = read_line(meta, pauses, now)
local stock = read_stock()
-- Nothing free, held or claimed, as seen after the opening: this is the end until somebody opens again.
if stock.is_fresh and stock.left == 0 and stock.at_ms >= line.opens_at_ms
  and (line.state == "open" or line.state == "paused" or line.state == "draining") then
  redis.call("HSET", meta, "sold_out_ms", now)
  line = read_line(meta, pauses, now)
end
local is_web_away = line.web_ms > 0 and now - line.web_ms > WEB_AWAY_MS
local is_telling = is_silence_telling(line, now)
local turn_ttl_ms = tonumber(redis.call("HGET", policy, "turn_ttl_ms"))
local back, ended, overdue = {}, {}, {}

-- The turn goes to the next; the sleeper keeps the place, but not for ever.
local function take_back(turn, place, t)
  redis.call("ZREM", leases, turn)
  t.turn, t.admitted_ms, t.misses = "", 0, t.misses + 1
  if t.misses >= MISSES_MAX then
    t.state, t.ended_ms = EXPIRED, now
    redis.call("SETBIT", gone, place, 1)
    ended[#ended + 1] = {place, "expired"}
  else
    t.state = WAITING
    redis.call("ZADD", absent, place, place)
    back[#back + 1] = place
  end
  redis.call("HSET", tickets, place, pack_ticket(t))
end

-- A seat whose time is over: untold, it goes to the next (unless it was we who could not tell); told, it lasts as long as
-- its pass, and then the shop says whether an open order keeps it; nobody's any more, it is free.
local function settle_lease(turn)
  local place = tonumber(string.match(turn, "^%d+%-(%d+)%-%d+$"))
  local t = place and unpack_ticket(redis.call("HGET", tickets, place))
  if t and (t.turn ~= turn or t.state ~= ADMITTED) then
    redis.call("ZREM", leases, turn)
  elseif t and t.told_ms > 0 and pass_until(line, t) + tonumber(ARGV[3]) > now then
    redis.call("ZADD", leases, pass_until(line, t) + tonumber(ARGV[3]), turn)
  elseif not t or t.told_ms > 0 then
    overdue[#overdue + 1] = turn
  elseif not is_web_away and now >= line.presence_valid_from_ms + turn_ttl_ms then
    take_back(turn, place, t)
  end
end

if line.state ~= "recovering" then
  for _, turn in ipairs(redis.call("ZRANGEBYSCORE", leases, "-inf", now, "LIMIT", 0, LEASES_MAX)) do
    settle_lease(turn)
  end
end

local rate_centi = tonumber(redis.call("HGET", policy, "rate_centi"))
local active_max = tonumber(redis.call("HGET", policy, "active_max"))
local active = redis.call("ZCARD", leases)
local level, level_at_ms = bucket_now(meta, policy, line, now)

local function seats_open()
  -- While the clock is behind the bucket's, what is left in it was paid for by time that comes again.
  local is_behind = level_at_ms > now
  if not is_letting_in(line) or is_web_away or is_behind or rate_centi == 0 then return 0 end
  local by_seats = math.min(active_max, stock.seats_max) - active
  return math.max(0, math.min(math.floor(level / PERSON), by_seats, tonumber(ARGV[2])))
end

-- Looks before it writes: the living to let in, lowest place first, the silent on the way, and places without a ticket.
local function choose(wanted)
  local chosen, passed, strays, offset = {}, {}, {}, 0
  local recent = is_telling and presence_recent(meta, presence, math.floor(now / line.quarter_ms)) or {}
  while #chosen < wanted and #passed < PASS_OVER_MAX do
    local found = redis.call("ZRANGE", waiting, offset, offset + wanted - #chosen + 15)
    if #found == 0 then break end
    for _, member in ipairs(found) do
      if #chosen == wanted or #passed == PASS_OVER_MAX then break end
      local place = tonumber(member)
      local t = unpack_ticket(redis.call("HGET", tickets, member))
      if not t or t.state ~= WAITING then
        strays[#strays + 1] = member
      elseif is_telling and not has_sign(recent, place) then
        passed[#passed + 1] = place
      else
        chosen[#chosen + 1] = {place = place, ticket = t, turn = string.format("%d-%d-%d", line.epoch, place, t.turns + 1)}
      end
    end
    offset = offset + #found
  end
  return chosen, passed, strays
end

local wanted = seats_open()
local chosen, passed, strays = choose(wanted)
local serving = tonumber(redis.call("HGET", meta, "serving")) or 0

-- Those who wait at a lower place than the last to be let in and are neither let in nor passed over: nobody, ever.
-- Counted by score, and not by the walk that chose, so that the event says what happened and not what was meant.
local function count_overtaken()
  local last, settled = chosen[#chosen].place, #chosen - 1
  for _, aside in ipairs({passed, strays}) do
    for _, place in ipairs(aside) do
      if tonumber(place) < last then settled = settled + 1 end
    end
  end
  return redis.call("ZCOUNT", waiting, "-inf", "(" .. last) - settled
end

local overtaken = #chosen > 0 and count_overtaken() or 0

local function write_event()
  local places, returners = {}, {}
  for _, c in ipairs(chosen) do
    places[#places + 1] = c.place
    -- At or before the highest place that was let in or passed over: it has had its number called, and came back.
    if c.place <= serving then returners[#returners + 1] = c.place end
  end
  redis.call("XADD", admissions, "*", "verb", "admitted", "lane", "general", "at", now,
    "places", table.concat(places, ","), "returners", table.concat(returners, ","), "rate_milli", rate_centi * 10,
    "burst", burst_of(rate_centi), "active", active + #chosen, "active_max", active_max, "passed_over", #passed,
    "inversions", overtaken)
end

local function admit(c)
  local t = c.ticket
  t.state, t.turns, t.turn, t.admitted_ms, t.told_ms = ADMITTED, t.turns + 1, c.turn, now, 0
  redis.call("HSET", tickets, c.place, pack_ticket(t))
  redis.call("ZADD", leases, now + turn_ttl_ms, c.turn)
  redis.call("ZREM", waiting, c.place)
end

-- People a second, for the rate as measured: a ring of seconds, each second and its count in one number.
local function count_second(people)
  local second = math.floor(now / 1000)
  local field = "second:" .. second % 64
  local known = tonumber(redis.call("HGET", meta, field)) or 0
  local count = math.floor(known / PERSON) == second and known % PERSON or 0
  redis.call("HSET", meta, field, string.format("%.0f", second * PERSON + count + people))
end

-- What must never happen is looked for by other means than those that prevent it.
local function count_violations()
  if overtaken ~= 0 then redis.call("HINCRBY", meta, "inversions", overtaken) end
  if redis.call("ZCARD", leases) > active_max then redis.call("HINCRBY", meta, "cap_violations", 1) end
end

if #chosen > 0 then write_event() end
for _, c in ipairs(chosen) do admit(c) end
for _, place in ipairs(passed) do
  redis.call("ZADD", absent, place, place)
  redis.call("ZREM", waiting, place)
  back[#back + 1] = place
end
for _, member in ipairs(strays) do redis.call("ZREM", waiting, member) end
if #passed > 0 then redis.call("HINCRBY", meta, "put_aside", #passed) end

local last_chosen = #chosen > 0 and chosen[#chosen].place or 0
local last_passed = #passed > 0 and passed[#passed] or 0
redis.call("HSET", meta, "bucket", level - #chosen * PERSON, "bucket_at_ms", level_at_ms,
  "serving", math.max(serving, last_chosen, last_passed))
if #chosen > 0 then
  redis.call("HINCRBY", meta, "admitted", #chosen)
  count_second(#chosen)
  count_violations()
  local turns = {}
  for i, c in ipairs(chosen) do turns[i] = {c.place, c.turn} end
  redis.call("PUBLISH", feed, cjson.encode({kind = "admitted", epoch = line.epoch, turns = turns}))
end
if #back > 0 then redis.call("PUBLISH", feed, cjson.encode({kind = "absent", epoch = line.epoch, places = back})) end
if #ended > 0 then redis.call("PUBLISH", feed, cjson.encode({kind = "ended", epoch = line.epoch, tickets = ended})) end

local due = redis.call("HMGET", meta, "is_due", "document_ms", "shown_state", "closings_cursor")
local is_due = due[1] == "1" or math.abs(now - (tonumber(due[2]) or 0)) >= DOCUMENT_EVERY_MS or due[3] ~= line.state
local is_more = #chosen == tonumber(ARGV[2]) or #passed == PASS_OVER_MAX
return {
  OK, line.state, active + #chosen, #chosen, #passed, #back - #passed, #ended, is_more and 1 or 0, is_due and 1 or 0,
  due[4] or "", overdue
}
