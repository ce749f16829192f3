-- What the shop's scripts share. A script decides an item first, reading only, and writes afterwards with commands that
-- cannot fail once types are known: so an error in one item leaves no trace of it and does not touch the others.
local OK, RECOVERING, NOT_OPEN, SOLD_OUT, UNKNOWN, STALE = 0, 1, 2, 4, 7, 9
local PASS_EXPIRED, PASS_REVOKED, PASS_SPENT, LIMIT_REACHED, RESERVATION_OPEN = 10, 11, 12, 13, 14
local KEY_REUSED, RECORD_BEHIND, ORDER_EXPIRED, STATE_CONFLICT, NOT_YOURS, CORRUPT = 15, 16, 17, 18, 20, 22
local TOO_MANY_DROPS = 28

-- Positions in a packed order, in each of its attempts, in a packed buyer and turn: `lua/shop.py` has the same.
local STATE, REV, BUYER, TURN, ITEMS, RESERVED_AT, EXPIRES_AT, KEY, EVENT, ATTEMPTS = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
local TRY_ID, TRY_KEY, TRY_DIGEST, TRY_EVENT, TRY_OUTCOME, TRY_REASON, TRY_END_EVENT, TRY_END_REV = 1, 2, 3, 4, 5, 6, 7, 8
local BUYER_HELD, BUYER_BOUGHT, BUYER_OPEN = 1, 2, 3
-- Only where there is any: how long units were held and not bought since the last purchase, in hundredths of a hold's
-- life, and when the last of them was let go.
local BUYER_DROPPED, BUYER_DROPPED_AT = 4, 5
local TURN_STATE, TURN_OPEN = 1, 2

-- Whether each key has its type or does not exist. Takes key, type, key, type, …
local function has_types(...)
  local expected = {...}
  for i = 1, #expected, 2 do
    local found = redis.call("TYPE", expected[i])["ok"]
    if found ~= expected[i + 1] and found ~= "none" then return false end
  end
  return true
end

-- Every item's own answer where nothing can be done for any.
local function all_answer(items, reply)
  local answers = {}
  for i = 1, #items do answers[i] = {reply} end
  return answers
end

-- `decide(item)` reads, and answers what to say, or nil and a plan; `write(plan)` carries a plan out and answers.
local function decide_then_write(items, decide, write)
  local answers = {}
  for i, item in ipairs(items) do
    local is_readable, answer, plan = pcall(decide, item)
    if not is_readable then
      answers[i] = {CORRUPT}
    else
      answers[i] = answer or write(plan)
    end
  end
  return answers
end

-- An unpacked value of a hash, or nil. Raises where it cannot be read.
local function read_packed(key, field)
  local packed = redis.call("HGET", key, field)
  if not packed then return nil end
  local value = cmsgpack.unpack(packed)
  assert(type(value) == "table")
  return value
end

local function write_packed(key, field, value)
  redis.call("HSET", key, field, cmsgpack.pack(value))
end

-- A buyer who holds, bought and dropped nothing says nothing that its absence does not.
local function write_buyer(buyers, name, buyer)
  local is_idle = buyer[BUYER_HELD] == 0 and buyer[BUYER_BOUGHT] == 0 and buyer[BUYER_OPEN] == ""
  if is_idle and not buyer[BUYER_DROPPED] then
    redis.call("HDEL", buyers, name)
  else
    write_packed(buyers, name, buyer)
  end
end

local function read_units(stock, field)
  local units = tonumber(redis.call("HGET", stock, field) or nil)
  assert(units and units == math.floor(units), field)
  return units
end

-- Counters after an order's units went from one to another, as HSET takes them. Raises rather than leave one below zero;
-- only `free` may be, where the record outranks Redis. From a counter to itself nothing moves.
local function moved_units(stock, items, from, to)
  local fields = {}
  if from == to then return fields end
  for _, item in ipairs(items) do
    local source, target = item[1] .. ":" .. from, item[1] .. ":" .. to
    local left = read_units(stock, source) - item[2]
    assert(left >= 0 or from == "free", source)
    fields[#fields + 1] = source
    fields[#fields + 1] = left
    fields[#fields + 1] = target
    fields[#fields + 1] = read_units(stock, target) + item[2]
  end
  return fields
end

local function quantity_of(items)
  local quantity = 0
  for _, item in ipairs(items) do quantity = quantity + item[2] end
  return quantity
end

-- The attempt of that id inside an order, or nil.
local function attempt_of(order, id)
  for _, attempt in ipairs(order[ATTEMPTS]) do
    if attempt[TRY_ID] == id then return attempt end
  end
end
