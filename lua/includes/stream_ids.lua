-- Whether a stream id comes after another. Ids are `ms-seq`, compared as two numbers: as text 9-0 would follow 10-0.
local function parts_of(id)
  local ms, seq = string.match(id, "^(%d+)-(%d+)$")
  return tonumber(ms), tonumber(seq)
end

local function is_after(id, other)
  local ms, seq = parts_of(id)
  local other_ms, other_seq = parts_of(other)
  return ms > other_ms or (ms == other_ms and seq > other_seq)
end
