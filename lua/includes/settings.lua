-- What Postgres says of a sale, written into its line: schedule, message, policy, and who holds it still.
-- A list: [opens_at_ms, closes_at_ms, draining, message, policy_version, mode, rate_centi, active_max, pass_ttl_ms,
-- turn_ttl_ms, absent_after_ms, [holder, ...]].
local POLICY = {"version", "mode", "rate_centi", "active_max", "pass_ttl_ms", "turn_ttl_ms", "absent_after_ms"}

local function apply_schedule(meta, s)
  local opens_at_ms = redis.call("HGET", meta, "opens_at_ms")
  redis.call("HSET", meta, "opens_at_ms", s[1], "closes_at_ms", s[2], "draining", s[3], "message", s[4])
  -- Another opening: what is left is looked at afresh, with figures younger than it.
  if opens_at_ms and tonumber(opens_at_ms) ~= s[1] then
    redis.call("HSET", meta, "sold_out_ms", 0, "stock_at_ms", 0)
  end
end

-- Quarters of another length number time otherwise: signs given so far cannot be read any more, so nobody is missed.
local function apply_grace(meta, quarter_ms, now)
  if tonumber(redis.call("HGET", meta, "quarter_ms")) == quarter_ms then return end
  redis.call("HSET", meta, "quarter_ms", quarter_ms, "presence_valid_from_ms", now)
  redis.call("HDEL", meta, "quarter:0", "quarter:1", "quarter:2", "quarter:3", "quarter:4")
end

local function note_change(meta, before, after, now)
  if not before or before == after then return end
  redis.call("HSET", meta, "change", after < before and "rate_lowered" or "rate_raised", "change_at_ms", now,
    "change_params", string.format('{"from":%.2f,"to":%.2f}', before / 100, after / 100))
end

-- The window of gathering is the line's own: it is neither in Postgres nor lifted from there.
local function apply_holders(pauses, holders)
  local is_wanted = {recovering = true}
  for _, holder in ipairs(holders) do
    is_wanted[holder] = true
    redis.call("SADD", pauses, holder)
  end
  for _, holder in ipairs(redis.call("SMEMBERS", pauses)) do
    if not is_wanted[holder] then redis.call("SREM", pauses, holder) end
  end
end

-- The bucket is settled at the old rate first, and cut to the new burst.
local function apply_settings(meta, policy, pauses, line, s, now)
  local level, at_ms = bucket_now(meta, policy, line, now)
  local rate_before = tonumber(redis.call("HGET", policy, "rate_centi"))
  apply_schedule(meta, s)
  apply_grace(meta, math.floor(s[11] / 4), now)
  for i, name in ipairs(POLICY) do redis.call("HSET", policy, name, s[4 + i]) end
  redis.call("HSET", meta, "bucket", math.min(level, burst_of(s[7]) * PERSON), "bucket_at_ms", at_ms, "is_due", 1)
  note_change(meta, rate_before, s[7], now)
  apply_holders(pauses, s[12])
end
