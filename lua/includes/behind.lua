-- Whether the oldest event the record has not is older than it may be: then what is held here might be refused there.
local function is_behind(stream, upto, now_ms, behind_ms)
  local oldest = redis.call("XRANGE", stream, "(" .. (upto or "0-0"), "+", "COUNT", 1)[1]
  return oldest ~= nil and now_ms - tonumber(string.match(oldest[1], "^%d+")) > behind_ms
end
