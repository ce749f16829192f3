-- Signs of life are bits by place, one bitmap for each quarter of the grace, five in turn. A place is living while it has
-- a bit in this quarter or one of the last four, or while presence itself has not been valid for the whole grace.
local QUARTERS = 5
-- Web processes beat once a second. Nobody heard for this long: not the buyers are silent, we are.
local WEB_AWAY_MS = 10000

-- The bitmap of this quarter, emptied when its slot was last used for an older one. The HSET comes first because Redis
-- refuses it when memory is full, and then nothing of the script has happened.
local function presence_now(meta, presence, quarter)
  local slot = quarter % QUARTERS
  if redis.call("HGET", meta, "quarter:" .. slot) ~= tostring(quarter) then
    redis.call("HSET", meta, "quarter:" .. slot, quarter)
    redis.call("DEL", presence[slot + 1])
  end
  return presence[slot + 1]
end

-- The bitmaps that count, youngest first.
local function presence_recent(meta, presence, quarter)
  local recent = {}
  for age = 0, QUARTERS - 1 do
    local slot = (quarter - age) % QUARTERS
    if redis.call("HGET", meta, "quarter:" .. slot) == tostring(quarter - age) then
      recent[#recent + 1] = presence[slot + 1]
    end
  end
  return recent
end

local function has_sign(recent, place)
  for _, bitmap in ipairs(recent) do
    if redis.call("GETBIT", bitmap, place) == 1 then return true end
  end
  return false
end

-- Whether silence may be held against anybody now.
local function is_silence_telling(line, now)
  if now < line.presence_valid_from_ms + 4 * line.quarter_ms then return false end
  return line.web_ms == 0 or now - line.web_ms <= WEB_AWAY_MS
end
