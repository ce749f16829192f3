-- What the line's scripts share: its state by the clock, and how a ticket is packed and shown.
local WAITING, ADMITTED, COMPLETED, EXPIRED, LEFT, SCHEDULED, CLOSED = 1, 2, 3, 4, 5, 6, 7
local OK, RECOVERING, UNKNOWN, CORRUPT = 0, 1, 7, 22

local NUMBERS = {
  "epoch", "opens_at_ms", "closes_at_ms", "draining", "sold_out_ms", "tail", "ceiling", "quarter_ms",
  "presence_valid_from_ms", "web_ms", "gather_until_ms"
}

-- A write can only hit a wrong type here, before anything was written: afterwards no call of a script can fail.
local function are_types(kinds)
  for key, kind in pairs(kinds) do
    local found = redis.call("TYPE", key).ok
    if found ~= "none" and found ~= kind then return false end
  end
  return true
end

local function append(list, ...)
  for i = 1, select("#", ...) do list[#list + 1] = (select(i, ...)) end
end

-- One command with a long list of arguments, in parts that fit Lua's stack; a multiple of all our groups of arguments.
local PART = 4000

local function call_in_parts(command, key, arguments)
  local answers = {}
  for first = 1, #arguments, PART do
    local answer = redis.call(command, key, unpack(arguments, first, math.min(first + PART - 1, #arguments)))
    if type(answer) == "table" then
      for _, value in ipairs(answer) do answers[#answers + 1] = value end
    end
  end
  return answers
end

-- The same answer for each item of a batch.
local function answer_all(items, reply)
  local answers = {}
  for i = 1, #items do answers[i] = {reply} end
  return answers
end

local function state_of(line, is_held, now)
  if line.gather_until_ms > 0 then return "recovering" end
  if now >= line.closes_at_ms then return "ended" end
  if line.sold_out_ms > 0 then return "sold_out" end
  if now < line.opens_at_ms then return "scheduled" end
  if line.draining == 1 then return "draining" end
  if is_held then return "paused" end
  return "open"
end

-- Numbers of meta by name, with `state` as the clock and the holders have it now.
local function read_line(meta, pauses, now)
  local line, values = {}, redis.call("HMGET", meta, unpack(NUMBERS))
  for i, name in ipairs(NUMBERS) do line[name] = tonumber(values[i]) or 0 end
  line.meta = meta
  line.is_held = redis.call("SCARD", pauses) > 0
  line.state = state_of(line, line.is_held, now)
  line.is_closed = line.state == "ended" or line.state == "sold_out"
  return line
end

-- [state, buyer, joined_ms, lane, turns, misses, turn, admitted_ms, told_ms, pass_exp_ms, ended_ms], cut after the last
-- value that says anything: a waiting ticket is its first three.
local function pack_ticket(t)
  local fields = {
    t.state, t.buyer, t.joined_ms, t.lane, t.turns, t.misses, t.turn, t.admitted_ms, t.told_ms, t.pass_exp_ms, t.ended_ms
  }
  for i = 11, 4, -1 do
    if fields[i] ~= 0 and fields[i] ~= "" then break end
    fields[i] = nil
  end
  return cmsgpack.pack(fields)
end

-- nil where there is none, or where what is there cannot be read.
local function unpack_ticket(packed)
  if not packed then return nil end
  local is_read, f = pcall(cmsgpack.unpack, packed)
  if not is_read or type(f) ~= "table" or type(f[1]) ~= "number" then return nil end
  return {
    state = f[1], buyer = f[2], joined_ms = f[3], lane = f[4] or 0, turns = f[5] or 0, misses = f[6] or 0,
    turn = f[7] or "", admitted_ms = f[8] or 0, told_ms = f[9] or 0, pass_exp_ms = f[10] or 0, ended_ms = f[11] or 0
  }
end

-- What everyone is told of for a while: a word, and its facts as JSON.
local function note_change(meta, code, params, now)
  redis.call("HSET", meta, "change", code, "change_at_ms", now, "change_params", params)
end

-- Times in which it was we who stopped selling, [from_ms, to_ms] each, oldest first: passes end that much later.
local OUTAGES_MAX = 16

local function read_outages(meta)
  local packed = redis.call("HGET", meta, "outages")
  return packed and cmsgpack.unpack(packed) or {}
end

-- What overlaps counts once.
local function note_outage(meta, from_ms, to_ms)
  local outages = read_outages(meta)
  local last = outages[#outages]
  if last and from_ms <= last[2] then
    last[1], last[2] = math.min(last[1], from_ms), math.max(last[2], to_ms)
  else
    outages[#outages + 1] = {from_ms, to_ms}
  end
  if #outages > OUTAGES_MAX then table.remove(outages, 1) end
  redis.call("HSET", meta, "outages", cmsgpack.pack(outages))
end

-- When the pass of a told turn ends: each time of ours that fell into its life is given back.
local function pass_until(line, t)
  local until_ms = t.pass_exp_ms
  if t.told_ms == 0 then return until_ms end
  line.outages = line.outages or read_outages(line.meta)
  for _, outage in ipairs(line.outages) do
    local since_ms = math.max(outage[1], t.told_ms)
    if since_ms < until_ms and outage[2] > since_ms then until_ms = until_ms + outage[2] - since_ms end
  end
  return until_ms
end

local function is_living(t)
  return t.state == WAITING or t.state == ADMITTED
end

-- A ticket as its holder may know it: what waits is scheduled before the opening and closed with the line.
local function view_of(line, place, t, is_absent, was_absent)
  local state, ended_ms = t.state, t.ended_ms
  if state == WAITING and line.is_closed then
    state, ended_ms = CLOSED, line.state == "ended" and line.closes_at_ms or line.sold_out_ms
  elseif state == WAITING and line.state == "scheduled" then
    state = SCHEDULED
  end
  return {
    OK, place, state, t.buyer, t.joined_ms, t.lane, is_absent and 1 or 0, was_absent and 1 or 0, t.turn,
    t.admitted_ms, t.told_ms, pass_until(line, t), ended_ms
  }
end
