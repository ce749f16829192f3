-- The identity check of every script: this server process must be the one the keys were registered with.
-- A restarted, restored or promoted server has another run id, an emptied one no meta: both mean "recovering".
local function clock_ms()
  local t = redis.call("TIME")
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function server_run_id()
  return string.match(redis.call("INFO", "server"), "run_id:(%w+)")
end

local function is_registered(meta)
  local known = redis.pcall("HGET", meta, "run_id")
  return type(known) == "string" and known == server_run_id()
end
