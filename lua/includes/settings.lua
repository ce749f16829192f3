-- What Postgres says of a sale, written into its line: schedule, message, policy, and who holds it still.
-- A list: [opens_at_ms, closes_at_ms, draining, message, policy_version, mode, rate_centi, active_max, pass_ttl_ms,
-- turn_ttl_ms, absent_after_ms, [holder, ...], revert_at_ms, [mode, ..., absent_after_ms, paused]].
local POLICY = {"mode", "rate_centi", "active_max", "pass_ttl_ms", "turn_ttl_ms", "absent_after_ms"}

local function apply_schedule(meta, s, now)
  local opens_at_ms = redis.call("HGET", meta, "opens_at_ms")
  redis.call("HSET", meta, "opens_at_ms", s[1], "closes_at_ms", s[2], "draining", s[3], "message", s[4])
  -- Another opening: what is left is looked at afresh, with figures younger than it.
  if opens_at_ms and tonumber(opens_at_ms) ~= s[1] then
    if (tonumber(redis.call("HGET", meta, "sold_out_ms")) or 0) > 0 then note_change(meta, "reopened", "{}", now) end
    redis.call("HSET", meta, "sold_out_ms", 0, "stock_at_ms", 0)
  end
end

-- Quarters of another length number time otherwise: signs given so far cannot be read any more, so nobody is missed.
local function apply_grace(meta, quarter_ms, now)
  if tonumber(redis.call("HGET", meta, "quarter_ms")) == quarter_ms then return end
  redis.call("HSET", meta, "quarter_ms", quarter_ms, "presence_valid_from_ms", now)
  redis.call("HDEL", meta, "quarter:0", "quarter:1", "quarter:2", "quarter:3", "quarter:4")
end

-- The rate moves everybody, the cap only who waits for a seat: of both at once the rate is told.
local function note_terms(meta, rate_before, rate, cap_before, cap, now)
  if rate_before and rate_before ~= rate then
    note_change(meta, rate < rate_before and "rate_lowered" or "rate_raised",
      string.format('{"from":%.2f,"to":%.2f}', rate_before / 100, rate / 100), now)
  elseif cap_before and cap_before ~= cap then
    note_change(meta, cap < cap_before and "cap_lowered" or "cap_raised",
      string.format('{"from":%d,"to":%d}', cap_before, cap), now)
  end
end

-- While the record is behind nobody can buy: its hold is a time of ours.
local function hold_by(meta, pauses, holder, now)
  local is_new = redis.call("SADD", pauses, holder) == 1
  if is_new and holder == "record" then redis.call("HSET", meta, "record_held_ms", now) end
  return is_new
end

local function lift(meta, pauses, holder, now)
  local was_held = redis.call("SREM", pauses, holder) == 1
  if was_held and redis.call("SCARD", pauses) == 0 then note_change(meta, "resumed", "{}", now) end
  if was_held and holder == "record" then
    note_outage(meta, tonumber(redis.call("HGET", meta, "record_held_ms")) or now, now)
  end
  return was_held
end

-- The window of gathering is the line's own: it is neither in Postgres nor lifted from there.
local function apply_holders(meta, pauses, holders, now)
  local is_wanted = {recovering = true}
  for _, holder in ipairs(holders) do
    is_wanted[holder] = true
    hold_by(meta, pauses, holder, now)
  end
  for _, holder in ipairs(redis.call("SMEMBERS", pauses)) do
    if not is_wanted[holder] then lift(meta, pauses, holder, now) end
  end
end

-- Other terms from `at_ms` on: the bucket is settled at the old rate first, and cut to the new burst.
local function apply_policy(meta, policy, line, terms, at_ms)
  local level, level_at_ms = bucket_now(meta, policy, line, at_ms)
  local before = redis.call("HMGET", policy, "rate_centi", "active_max")
  apply_grace(meta, math.floor(terms[6] / 4), at_ms)
  for i, name in ipairs(POLICY) do redis.call("HSET", policy, name, terms[i]) end
  redis.call("HSET", meta, "bucket", math.min(level, burst_of(terms[2]) * PERSON), "bucket_at_ms", level_at_ms,
    "is_due", 1)
  note_terms(meta, tonumber(before[1]), terms[2], tonumber(before[2]), terms[3], at_ms)
end

-- What was changed for a while goes back at its moment, whoever is still alive to write it down: Postgres follows.
local function revert_if_due(meta, policy, pauses, now)
  local at_ms = tonumber(redis.call("HGET", policy, "revert_at_ms")) or 0
  if at_ms == 0 or now < at_ms then return false end
  local back = cmsgpack.unpack(redis.call("HGET", policy, "back"))
  apply_policy(meta, policy, read_line(meta, pauses, at_ms), back, at_ms)
  redis.call("HDEL", policy, "revert_at_ms", "back")
  if back[7] == 1 then redis.call("SADD", pauses, "operator") end
  if back[7] == 0 then lift(meta, pauses, "operator", at_ms) end
  return true
end

local function apply_settings(meta, policy, pauses, line, s, now)
  -- Before anything else changes: what was due until now happens at the terms that were in force.
  if revert_if_due(meta, policy, pauses, now) then line = read_line(meta, pauses, now) end
  apply_schedule(meta, s, now)
  redis.call("HSET", policy, "version", s[5])
  apply_policy(meta, policy, line, {s[6], s[7], s[8], s[9], s[10], s[11]}, now)
  redis.call("HDEL", policy, "revert_at_ms", "back")
  if s[13] > 0 then redis.call("HSET", policy, "revert_at_ms", s[13], "back", cmsgpack.pack(s[14])) end
  apply_holders(meta, pauses, s[12], now)
  -- Written late, or again after it went back: never in force beyond its moment.
  revert_if_due(meta, policy, pauses, now)
end
