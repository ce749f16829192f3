-- The rate as a bucket of millionths of a person: at `rate_centi` hundredths per second exactly rate_centi * 10 of them
-- flow in each millisecond, so no remainder is ever lost, at 0.01 a second as at 100,000.
local PERSON = 1000000
-- A clock that steps back by less is waited for, so that no window of its time sees more than the rate; a longer wait would
-- hurt more than it keeps.
local BACK_MAX_MS = 10000
-- Longer gaps fill any bucket; the bound keeps the product an exact integer.
local ELAPSED_MAX_MS = 3600000

local function burst_of(rate_centi)
  return math.max(1, math.ceil(rate_centi / 1000))
end

local function is_letting_in(line)
  return (line.state == "open" or line.state == "draining") and not line.is_held
end

-- Millionths in the bucket at `now`, at the rate in force until now, and the time up to which they were counted. A line that
-- was held, or not yet open, gained nothing.
local function bucket_now(meta, policy, line, now)
  local stored = redis.call("HMGET", meta, "bucket", "bucket_at_ms")
  local level, at_ms = tonumber(stored[1]) or 0, tonumber(stored[2]) or now
  if at_ms - now > BACK_MAX_MS then at_ms = now end
  local rate_centi = tonumber(redis.call("HGET", policy, "rate_centi")) or 0
  local elapsed = math.min(math.max(0, now - math.max(at_ms, line.opens_at_ms)), ELAPSED_MAX_MS)
  if is_letting_in(line) then level = level + elapsed * rate_centi * 10 end
  return math.min(level, burst_of(rate_centi) * PERSON), math.max(at_ms, now)
end
