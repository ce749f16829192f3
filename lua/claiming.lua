--[[ One step through the orders that are being paid: those claimed longer than a while ago, each with its open try.
  KEYS[1] meta    hash  whose keys these are
  KEYS[2] orders  hash  order -> packed order
  ARGV[1] cursor, "0" to begin    ARGV[2] orders to look at    ARGV[3] milliseconds since the claim, at least
  Returns {0, next cursor, order, attempt, event_id, …} | {1} recovering | {22} corrupt    Events: none ]]
-- include: guard
-- include: shop
local meta, orders = KEYS[1], KEYS[2]
if not is_registered(meta) then return {RECOVERING} end
if not has_types(orders, "hash") then return {CORRUPT} end
local before_ms = clock_ms() - tonumber(ARGV[3])
local step = redis.call("HSCAN", orders, ARGV[1], "COUNT", ARGV[2])
local answer = {OK, step[1]}
for i = 1, #step[2], 2 do
  local is_readable, order = pcall(cmsgpack.unpack, step[2][i + 1])
  local attempt = is_readable and order[STATE] == "confirming" and order[ATTEMPTS][#order[ATTEMPTS]]
  local claimed_ms = attempt and tonumber(string.match(attempt[TRY_EVENT], "^(%d+)-"))
  if claimed_ms and claimed_ms <= before_ms then
    answer[#answer + 1] = step[2][i]
    answer[#answer + 1] = attempt[TRY_ID]
    answer[#answer + 1] = attempt[TRY_EVENT]
  end
end
return answer
